"""Every example runs, and the notebooks are the scripts with their output kept."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from igpt_keras.network.config import ImageGPTConfig
from tests.conftest import FIXTURES

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
NOTEBOOKS = ("own_images", "probe_and_finetune", "learning_rate")


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
    output = run(tmp_path, EXAMPLES / "own_images.py")
    assert "540 training images, 60 validation images" in output
    losses = [float(loss) for loss in re.findall(r"- loss: ([\d.]+)", output)]
    assert losses[-1] < losses[0]
    assert Image.open(tmp_path / "completions.png").width > 6 * 16
    assert (tmp_path / "my-model" / "igpt.json").is_file()


@pytest.mark.slow
def test_probe_and_finetune(tmp_path):
    output = run(tmp_path, EXAMPLES / "probe_and_finetune.py")
    accuracies = [float(value) for value in re.findall(r"layer \d: ([\d.]+)%", output)]
    assert len(accuracies) == 5
    assert max(accuracies) > 70  # chance is 10
    assert float(re.search(r"test accuracy ([\d.]+)%", output)[1]) > 70


@pytest.mark.slow
def test_learning_rate(tmp_path):
    output = run(tmp_path, EXAMPLES / "learning_rate.py")
    losses = [line.split()[1] for line in output.splitlines() if re.match(r"[\d.]+ +\S+$", line)]
    assert "3      diverged" in output
    assert len(losses) > 2
    assert "(2, 1, 8, 8, 3)" in output


@pytest.mark.slow
def test_openai_weights(tmp_path, photos):
    checkpoint = FIXTURES / "openai_ar" / "model.ckpt-1000000"
    arguments = [checkpoint, "--images", photos, "--complete", 2, "--output", "sheet.png"]
    output = run(tmp_path, EXAMPLES / "openai_weights.py", *arguments)
    assert "parameters" in output
    assert Image.open(tmp_path / "sheet.png").mode == "RGB"


@pytest.mark.slow
def test_serve_with_stubs(tmp_path, photos):
    import igpt_keras

    config = ImageGPTConfig(4, 8, 16, 2, 2)
    colors = np.random.default_rng(0).uniform(-1, 1, (8, 3))
    model = igpt_keras.ImageGPT(config, tokenizer=igpt_keras.ColorPalette(colors))
    model.save_to_preset(tmp_path / "model")
    arguments = ["model", photos / "0.png", "--count", 2]
    run(tmp_path, EXAMPLES / "serve_with_stubs.py", *arguments)
    image = igpt_keras.data.read_image(photos / "0.png", 4)
    known = model.tokenizer.detokenize(model.tokenizer.tokenize(image[None]))[0]
    for number in range(2):
        completed = np.asarray(Image.open(tmp_path / f"0-{number}.png"))
        np.testing.assert_array_equal(completed[:2], known[:2])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_its_script_with_output(name):
    notebook = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    script = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    cells = [cell.strip() for cell in re.split(r"# %%.*\n", script) if cell.strip()]
    assert code == [cell for cell in cells if not cell.startswith("#")]
    outputs = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert any(outputs)
    assert not [o for output in outputs for o in output if o["output_type"] == "error"]
