"""Every command on a model with a token for each channel of a pixel."""

import json
import math

import numpy as np
import pytest
from PIL import Image

import igpt_keras
from igpt_keras.data import open_data, read_images
from igpt_keras.runs.result import read_result

SIZES = ["--image-size", 8, "--num-layers", 2, "--hidden-dim", 16, "--num-heads", 1]
PRETRAIN = ["--data", "digits", "--tokenizer", "rgb", *SIZES, "--batch-size", 32]


@pytest.fixture(scope="module")
def trained(igpt, tmp_path_factory):
    """The folder of a run, and what was printed."""
    output = tmp_path_factory.mktemp("rgb") / "trained"
    arguments = ["--steps", 24, "--attention", "strided", "--axial-positions", "--snapshots", 1]
    status, printed, errors = igpt("pretrain", *PRETRAIN, *arguments, "--output", output)
    assert status == 0, errors
    return output, printed


@pytest.mark.slow
def test_losses_are_printed_in_bits_per_dimension(igpt, trained, tmp_path):
    output, printed = trained
    first, *_, last = printed.splitlines()
    assert "strided attention, 8×8 pixels, 8×24 tokens of 256 values, tokenizer rgb" in first
    bits = read_result(output).metrics["validation_loss"] / math.log(2)
    assert f"nats per token, {bits:.4f} bits per dimension." in last
    status, printed, errors = igpt(
        "evaluate", output, "--data", "digits", "--output", tmp_path / "e"
    )
    assert status == 0, errors
    (row,) = (line for line in printed.splitlines() if "bits per dimension" in line)
    assert f"{bits:.3f}" in row


@pytest.mark.slow
def test_images_are_completed_and_sampled(igpt, trained, tmp_path):
    model = igpt_keras.load(trained[0])
    given = read_images(open_data("digits").test, 8, limit=1).images[0]
    Image.fromarray(given).save(tmp_path / "digit.png")
    arguments = ["--model", trained[0], "--num-completions", 2]
    completed, again = tmp_path / "completed", tmp_path / "again"
    for folder, more in ((completed, []), (again, ["--draft", trained[0]])):
        status, _, errors = igpt(
            *("complete", tmp_path / "digit.png", *arguments, "--keep-rows", 3),
            *("--scale", 1, "--output", folder, *more),
        )
        assert status == 0, errors
    names = [path.name for path in completed.glob("*digit-*.png")]
    assert len(names) == 2
    for name in names:
        image = np.asarray(Image.open(completed / name).convert("RGB"))
        np.testing.assert_array_equal(image[:3], given[:3])
        np.testing.assert_array_equal(image, np.asarray(Image.open(again / name).convert("RGB")))
    status, _, errors = igpt(
        "sample", "--model", trained[0], "--num-samples", 2, "--output", tmp_path / "s"
    )
    assert status == 0, errors
    assert model.sample(2, seed=0).images.shape == (2, 1, 8, 8, 3)


@pytest.mark.slow
def test_a_rate_is_searched(igpt, tmp_path):
    arguments = [*PRETRAIN, "--steps", 4, "--floor", 0.003, "--output", tmp_path / "tuned"]
    status, printed, errors = igpt("tune", "pretrain", *arguments)
    assert status == 0, errors
    assert "8×24 tokens of 256 values, tokenizer rgb" in printed
    (search,) = json.loads((tmp_path / "tuned" / "summary.json").read_text())["searches"]
    assert "--tokenizer rgb" in search["command"]
    assert "--num-colors" not in search["command"]


@pytest.mark.slow
def test_it_becomes_no_model_of_transformers(igpt, trained, tmp_path):
    output = tmp_path / "converted"
    status, _, errors = igpt("convert", trained[0], output, "--to", "huggingface")
    assert (status, errors.count("\n")) == (2, 1)
    assert not output.exists()
    status, printed, errors = igpt("convert", trained[0], output)
    assert status == 0, errors
    assert "8×8 pixels, 8×24 tokens of 256 values" in printed
    assert igpt_keras.load(output).tokenizer.grid == (8, 24)
