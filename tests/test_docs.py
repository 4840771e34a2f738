"""The code of README, CONTRIBUTING and docs runs as it is pasted, page by page, from the top.

Each page runs in a folder of its own that holds what the page assumes. `SMALLER` cuts sizes and
steps down, and there are few digits; `NOT_RUN` says which blocks do not run, and why.
"""

import re
import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from igpt_keras import ColorPalette, ImageGPT, ImageGPTClassifier, ImageGPTConfig
from tests.conftest import FIXTURES
from tests.pages import ROOT, SHOWN, blocks_of, opened_shell, run_python
from tests.training.replicas import free_ports

PAGES = ["README.md", "CONTRIBUTING.md"] + [
    f"docs/{p.name}" for p in sorted(ROOT.glob("docs/*.md"))
]
TINY = "--num-layers 1 --hidden-dim 16 --num-heads 1 --image-size 8 --num-colors 8"
NO_COLORS = "--num-layers 1 --hidden-dim 16 --num-heads 1 --image-size 8 --epochs 1"
# What is replaced in a block, so that it takes seconds.
SMALLER = {
    "--preset image_gpt_small": TINY,
    "--preset image_gpt_tiny --tokenizer rgb": f"{NO_COLORS} --tokenizer rgb",
    "image_gpt_small,image_gpt_medium,image_gpt_large": "1x16x1,2x16x1 --image-size 8 --floor 0.01",
    "folder:imagenet": "folder:photos --num-colors 8",
    "--image-size 64 --attention strided": f"{TINY} --epochs 1 --attention strided",
    "--output runs/photos": f"--output runs/photos {TINY} --epochs 1",
    "--output runs/conditional": f"--output runs/conditional {TINY} --epochs 1",
    "--tokenizer palette.npy --output": (
        "--num-layers 1 --hidden-dim 16 --num-heads 1 --image-size 8 --epochs 1 "
        "--tokenizer palette.npy --output"
    ),
    "--image-size 96 --output runs/vqvae": (
        "--image-size 8 --codebook-size 16 --hidden-dim 8 --steps 2 --output runs/vqvae"
    ),
    "--image-size 192 --batch-size 4 --steps 1000": (
        "--image-size 16 --codebook-size 16 --hidden-dim 8 --batch-size 4 --steps 2"
    ),
    "--tokenizer runs/vqvae --attention": (
        "--num-layers 1 --hidden-dim 16 --num-heads 1 --tokenizer runs/vqvae --attention"
    ),
    "--steps 700": "--steps 2",
    "--keep-rows 48 --num-completions 3": "--keep-rows 4 --num-completions 1",
    "--tokenizer runs/vqvae --output": (
        "--num-layers 1 --hidden-dim 16 --num-heads 1 --epochs 1 --tokenizer runs/vqvae --output"
    ),
    "--output runs/from-tokens": (
        "--output runs/from-tokens --num-layers 1 --hidden-dim 16 --num-heads 1 --epochs 1"
    ),
    "--num-layers 8 --hidden-dim 64": "--num-layers 3 --hidden-dim 16",
    "--num-colors 256": "--num-colors 16",
    "--steps 4224": "--steps 8",
    "--epochs 100": "--epochs 1",
    "--epochs 10 ": "--epochs 1 --floor 0.01 ",
    "--epochs 15 --patience 3": "--epochs 1",
    "--epochs 16 ": "--epochs 1 ",
    "--epochs 8 ": "--epochs 1 ",
    "--epochs 4 ": "--epochs 1 ",
    "--output runs/finetuned-ar": "--output runs/finetuned-ar --epochs 1",
    "--output runs/classifier": "--output runs/classifier --epochs 1",
    "--labels-per-class 4,25,400": "--labels-per-class 2,4",
    "--labels-per-class 100": "--labels-per-class 2",
    "--samples 50000": "--samples 8",
    "--num-samples 500": "--num-samples 8",
    "--start 3 ": "--start 0.03 --floor 0.03 ",
    "--start 1 ": "--start 0.03 --floor 0.03 ",
    "for rate in 0.001 0.003": "for rate in 0.001",
    "for rate in 0.0003 0.001": "for rate in 0.001",
    "for step in 00000264 00001056 00002112": "for step in 00000004",
    "--layers 2,4,6,8": "--layers 1",
    "floor=0.003": "floor=0.03",
    "epochs=20": "epochs=1",
    "epochs=5": "epochs=1",
    "epochs=3": "epochs=1",
    "steps_per_epoch=40": "steps_per_epoch=2",
    "steps=80": "steps=4",
    # A second strategy with several devices would disturb those of other tests.
    "MirroredStrategy()": 'MirroredStrategy(["CPU:0"])',
    # What it makes is there.
    "igpt quickstart\npython": "python",
}
# Blocks that do not run, by an expression of what they hold.
NOT_RUN = {
    r"^igpt quickstart$": "tests/cli/test_quickstart.py runs it",
    r"pip install .* && python -m pytest": "installs, and tests with all tests",
    r"pre-commit install": "changes the clone, and tests with all tests",
    r"@(register_\w+|METHODS\.register)\(": "tests/test_contributing.py runs and uses them",
    r"python benchmarks/": "measures for minutes to hours, for which tests have no time",
    r"python examples/baselines/": "tests/examples/ runs them, which takes minutes",
    r"examples/ray_train\.py": "needs Ray; tests/examples/test_ray_train.py runs it",
    r"tfds:imagenet2012": "needs ImageNet, which its users download by hand",
    r"igpt demo|--page": "ends with Ctrl-C; tests/cli/test_demo.py and tests/serving/page/ run it",
    r"TF_CONFIG=": "needs two processes; tests/training/test_distribution.py trains in two",
    r'"KERAS_BACKEND"\] = "jax"': "needs a process of its own; tests/models/test_sharding.py",
    r"features inception:": "needs the published weights of Inception",
    r"mlflow|wandb": "needs a tracker; tests/cli/test_callbacks.py trains with such callbacks",
    r"hf:uoft-cs": "downloads from the Hugging Face Hub",
    r"KERASTUNER_": "needs three processes; tests/cli/test_tune.py searches in three",
    r"hf upload": "needs an account of the Hugging Face Hub",
    r"docker ": "needs Docker",
    r"kubectl ": "needs a cluster",
    r"--model-config-file models\.config": "tests/serving/test_deploy.py serves from these files",
    r"model_version_policy": "is in such a file",
    r"grpcurl |/monitoring/prometheus": "asks a server with such files, and needs grpcurl",
}


def write_model(folder, size=20, classes=0, objective="ar", colors=16, num_classes=None):
    """Writes a model that is tiny, with random weights, and of the size that a page speaks of."""
    config = ImageGPTConfig(size, colors, 16, 1, 2, num_classes=num_classes)
    palette = ColorPalette(np.random.default_rng(0).uniform(-1, 1, (colors, 3)))
    model = ImageGPT(config, objective, tokenizer=palette)
    if classes:
        model = ImageGPTClassifier(config, classes, objective, tokenizer=palette)
    model.save_to_preset(folder, training={"learning_rate": 0.01})


def write_images(folder, count=24, size=24):
    """Writes colored images, which have no file in common."""
    generator = np.random.default_rng(1)
    folder.mkdir(parents=True)
    for index in range(count):
        colors = generator.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        picture = Image.fromarray(colors).resize((size, size + index), Image.Resampling.BILINEAR)
        picture.save(folder / f"{index}.png")


def furnish(folder, page):
    """Writes what the pages assume into a folder."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            write_images(folder / "photos" / split / name, 24 if split == "train" else 4)
    shutil.copytree(folder / "photos", folder / "cifar10")
    for name in ("photo.jpg", "other.png", "cat.png", "dog.jpg"):
        Image.open(folder / "photos" / "train" / "cat" / "3.png").save(folder / name)
    mask = np.repeat(np.arange(20) < 18, 20).reshape(20, 20)
    Image.fromarray(~mask).save(folder / "mask.png")
    if page != "README.md":  # Which makes its own.
        write_model(folder / "my-model")
        write_model(folder / "digits-model", size=8)
    write_model(folder / "my-classifier", classes=2)
    write_model(folder / "a-smaller-model")
    write_model(folder / "my-bert", objective="bert")
    write_model(folder / "my-conditional", num_classes=10)
    write_model(folder / "igpt-quickstart" / "pretrained", size=8)
    write_model(folder / "igpt-quickstart" / "classifier", size=8, classes=10)
    shutil.copytree(FIXTURES / "openai_ar", folder / "path" / "to")
    shutil.copytree(FIXTURES / "hf" / "causal", folder / "path" / "to" / "imagegpt-small")


def few_digits():
    """Returns 160 digits to train, and the usual number to validate and to test."""
    digits: Any = load_digits()
    return Bunch(**{**digits, "images": digits.images[:700], "target": digits.target[:700]})


def reason_not_to_run(block):
    return next((NOT_RUN[text] for text in NOT_RUN if re.search(text, block.text)), None)


def smaller(block, ports):
    text = block.text
    for usual, port in ports.items():
        text = text.replace(f"localhost:{usual}", f"localhost:{port}")
        text = text.replace(f"port {usual}", f"port {port}")
    for given, less in SMALLER.items():
        text = text.replace(given, less)
    return text


@pytest.fixture(scope="module")
def blocks():
    return {page: blocks_of(page) for page in PAGES}


def test_every_block_runs_is_shown_or_has_a_reason(blocks):
    every = [block for page in PAGES for block in blocks[page] if block.language not in SHOWN]
    assert {block.language for block in every} == {"python", "shell"}
    for text in NOT_RUN:
        assert any(re.search(text, block.text) for block in every), text
    run = [block.text for block in every if reason_not_to_run(block) is None]
    for given in SMALLER:
        assert any(given in text for text in run), given


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_its_top(page, blocks, igpt, tmp_path, monkeypatch):
    (tmp_path / "page").mkdir()
    (tmp_path / "shell").mkdir()
    monkeypatch.chdir(tmp_path / "page")
    run = [b for b in blocks[page] if b.language not in SHOWN and reason_not_to_run(b) is None]
    if any("curl " in block.text for block in run) and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    if any("igpt tokenize" in block.text for block in run):
        pytest.importorskip("apache_beam")
    if run:
        furnish(tmp_path / "page", page)
    if page != "docs/data.md":  # Which says how many digits there are.
        monkeypatch.setattr("igpt_keras.data.sources.digits.load_digits", few_digits)
    namespace = {"__name__": "__main__"}
    ports = dict(zip((8500, 8501), free_ports(2), strict=True))
    with opened_shell(tmp_path / "shell", igpt) as shell:
        for block in run:
            if block.language == "python":
                run_python(block, smaller(block, ports), namespace)
            else:
                shell.run(block, smaller(block, ports))
