"""Every example runs, and the notebooks are the scripts with their output kept."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

import igpt_keras
from igpt_keras.network.config import ImageGPTConfig
from tests.conftest import FIXTURES
from tests.training.replicas import free_ports

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
# What is replaced in a notebook, so that it takes less time.
SMALLER = {
    "own_images": {"range(600)": "range(150)", "epochs=4": "epochs=2"},
    "probe_and_finetune": {"epochs=12": "epochs=8"},
    "learning_rate": {"epochs=4": "epochs=2", "floor=0.001": "floor=0.001, factor=10"},
}


def run(folder, *arguments):
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def execute(folder, name):
    """Executes a notebook; returns what it prints."""
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", 4)
    for given, less in SMALLER[name].items():
        assert any(given in cell.source for cell in notebook.cells), given
        for cell in notebook.cells:
            cell.source = cell.source.replace(given, less)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=580, kernel_name="python3", resources=resources).execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    return "".join(o["text"] for o in outputs if o.get("name") == "stdout")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(3):
        pixels = generator.integers(0, 256, (40, 30 + index, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.mark.slow
def test_own_images(tmp_path):
    output = execute(tmp_path, "own_images")
    assert "135 training images, 15 validation images" in output
    losses = [float(loss) for loss in re.findall(r"- loss: ([\d.]+)", output)]
    assert losses[-1] < losses[0]
    assert Image.open(tmp_path / "completions.png").width > 6 * 16
    assert (tmp_path / "my-model" / "igpt.json").is_file()


@pytest.mark.slow
def test_probe_and_finetune(tmp_path):
    output = execute(tmp_path, "probe_and_finetune")
    accuracies = [float(value) for value in re.findall(r"layer \d: ([\d.]+)%", output)]
    assert len(accuracies) == 5
    assert max(accuracies) > 70  # chance is 10
    assert float(re.search(r"test accuracy ([\d.]+)%", output)[1]) > 70


@pytest.mark.slow
def test_learning_rate(tmp_path):
    output = execute(tmp_path, "learning_rate")
    losses = [line.split()[1] for line in output.splitlines() if re.match(r"[\d.]+ +\S+$", line)]
    assert "3      diverged" in output
    assert len(losses) > 2
    assert "(2, 1, 8, 8, 3)" in output


@pytest.mark.slow
def test_openai_weights(tmp_path, photos):
    folder = tmp_path / "published"
    shutil.copytree(FIXTURES / "openai_ar", folder)
    vocabulary_size = igpt_keras.ImageGPT.from_preset(folder).config.vocabulary_size
    centers = np.random.default_rng(0).uniform(-1, 1, (vocabulary_size, 3)).astype(np.float32)
    np.save(folder / "kmeans_centers.npy", centers)
    arguments = [
        folder / "model.ckpt-1000000",
        "--images",
        photos,
        "--complete",
        2,
        "--output",
        "sheet.png",
    ]
    output = run(tmp_path, EXAMPLES / "openai_weights.py", *arguments)
    assert "parameters" in output
    assert Image.open(tmp_path / "sheet.png").mode == "RGB"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_classes", "options"), [(None, []), (3, ["--label", 1, "--guidance-scale", 2])]
)
def test_serve_with_stubs(tmp_path, photos, num_classes, options):
    config = ImageGPTConfig(4, 8, 16, 2, 2, num_classes=num_classes)
    colors = np.random.default_rng(0).uniform(-1, 1, (8, 3))
    model = igpt_keras.ImageGPT(config, tokenizer=igpt_keras.ColorPalette(colors))
    model.save_to_preset(tmp_path / "model")
    arguments = ["model", photos / "0.png", "--count", 2, *options]
    run(tmp_path, EXAMPLES / "serve_with_stubs.py", *arguments)
    image = igpt_keras.data.read_image(photos / "0.png", 4)
    known = model.tokenizer.detokenize(model.tokenizer.tokenize(image[None]))[0]
    for number in range(2):
        completed = np.asarray(Image.open(tmp_path / f"0-{number}.png"))
        np.testing.assert_array_equal(completed[:2], known[:2])


@pytest.mark.slow
def test_gradio_app(tmp_path, photos):
    pytest.importorskip("gradio", reason="the extra gradio is not installed")
    import gradio_client

    config = ImageGPTConfig(4, 8, 16, 2, 2)
    colors = np.random.default_rng(0).uniform(-1, 1, (8, 3))
    model = igpt_keras.ImageGPT(config, tokenizer=igpt_keras.ColorPalette(colors))
    model.save_to_preset(tmp_path / "model")
    (port,) = free_ports(1)
    environment = {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    page = subprocess.Popen(
        [sys.executable, EXAMPLES / "gradio_app.py", "model"],
        cwd=tmp_path,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while f"http://127.0.0.1:{port}" not in page.stdout.readline():
            assert page.poll() is None
        client = gradio_client.Client(f"http://127.0.0.1:{port}", verbose=False)
        photo = gradio_client.handle_file(photos / "0.png")
        answer = client.submit(photo, 1, 2, 0.9, 1, 5, api_name="/complete")
        answer.result()
        galleries = answer.outputs()
    finally:
        page.terminate()
        page.communicate(timeout=60)
    image = igpt_keras.data.read_image(photos / "0.png", 4)
    sampler = igpt_keras.samplers.Categorical(0.9)
    expected = model.generate(
        image[None], keep_rows=1, num_completions=2, sampler=sampler, seed=5
    ).images[0]
    # Before the first row, after each of three, and with the likelihoods.
    assert len(galleries) == 5
    for gallery, rows in zip(galleries, (1, 2, 3, 4, 4), strict=True):
        for picture, completion in zip(gallery, expected, strict=True):
            # One pixel of each square that a pixel became.
            shown = np.asarray(Image.open(picture["image"]).convert("RGB"))[40::80, 40::80]
            np.testing.assert_array_equal(shown[:rows], completion[:rows])
            assert (shown[rows:] == 128).all()


@pytest.mark.slow
def test_gpu_pretraining(tmp_path, jax_interpreter):
    generator = np.random.default_rng(0)
    held_out = []
    for name in "ab":
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for index in range(34):
            corners = generator.integers(0, 256, (2, 2, 3), dtype=np.uint8)
            path = folder / f"{index:02d}.jpg"
            image = Image.fromarray(corners).resize((8, 8), Image.Resampling.BILINEAR)
            image.save(path, quality=90, subsampling=0)
            if index >= 30:
                held_out.append(np.asarray(Image.open(path)))
    printed = jax_interpreter.run(
        """
        import pathlib, sys
        folder, examples = map(pathlib.Path, sys.argv[1:])
        sys.path.insert(0, str(examples))
        import join, measure, pack, train
        train.PART_BYTES, train.MEASURED_SECONDS = 20_000, 0.1

        def run(script, *arguments):
            sys.argv[1:] = map(str, arguments)
            script.main()

        model = ["--num-layers", 1, "--hidden-dim", 16, "--num-heads", 2]
        packed, output = folder / "packed", folder / "output"
        run(pack, folder / "images", packed, "--train", 28, "--held-out", 4)
        run(train, packed, output, "--seconds", 40, "--batch-sizes", 4, 8,
            "--learning-rate", 1e-4, *model)
        run(join, output, folder / "model", "--packed", packed)
        run(measure, "--presets", "--image-size", 8, "--batch-size", 4, *model)
        """,
        tmp_path,
        EXAMPLES / "gpu_pretraining",
    )
    assert "'train': 56, 'validation': 8}" in printed
    assert len(re.findall(r"^\| example \|", printed, re.MULTILINE)) == 2

    training = json.loads((tmp_path / "output" / "training.json").read_text())
    evaluations, steps, warmup = (training[key] for key in ("evaluations", "steps", "warmup_steps"))
    assert [e["step"] for e in evaluations] == [steps * i // 8 for i in range(1, 9)]
    for evaluation in evaluations:
        done = (evaluation["step"] - warmup) / (steps - warmup)
        assert evaluation["learning_rate"] == pytest.approx(
            1e-4 * (1 + np.cos(np.pi * done)) / 2, abs=1e-8
        )
    # So few images are learned by heart: the held-out loss need not fall.
    assert evaluations[-1]["training_nats"] < evaluations[0]["training_nats"] < np.log(512)
    parts = sorted((tmp_path / "output").glob("weights-*.bin"))
    assert [part.name for part in parts] == training["parts"]
    assert len(parts) > 1

    model = igpt_keras.ImageGPT.from_preset(tmp_path / "model")
    nats = -model.score(np.stack(held_out)).mean() / 64
    assert nats == pytest.approx(evaluations[-1]["validation_nats"], rel=0.01)


@pytest.mark.parametrize("name", SMALLER)
def test_a_notebook_is_its_script_with_output(name):
    cells = [c for c in nbformat.read(EXAMPLES / f"{name}.ipynb", 4).cells if c.cell_type == "code"]
    script = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    parts = [part.strip() for part in re.split(r"# %%.*\n", script) if part.strip()]
    assert [cell.source for cell in cells] == [part for part in parts if part[0] != "#"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
