import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import igpt_keras
from igpt_keras.cli import digits_demo
from igpt_keras.sampling.requests import Completions

WRITTEN = {
    "classifier",
    "completions.png",
    "measurements.json",
    "pretrained",
    "samples.png",
    "saved_model",
}


@pytest.fixture
def short(monkeypatch):
    """Every stage of the quickstart with next to no training."""
    for name, value in {
        "PRETRAINING_EPOCHS": 1,
        "FINETUNING_WITH_FEW": {"epochs": 1, "patience": 1, "batch_size": 50},
        "FINETUNING_WITH_ALL": {"epochs": 1, "patience": 1, "batch_size": 300},
        "HIDDEN_DIM": 16,
        "NUM_LAYERS": 1,
        "NUM_HEADS": 2,
        "SAMPLES": 6,
    }.items():
        monkeypatch.setattr(digits_demo, name, value)


@pytest.mark.slow
def test_quickstart_runs_every_stage_and_refuses_to_overwrite(igpt, short, tmp_path):
    output = tmp_path / "out"
    status, printed, errors = igpt("quickstart", "--output", output)
    assert status == 0, errors
    assert {path.name for path in output.iterdir()} == WRITTEN
    for name in WRITTEN:
        assert str(output / name) in printed.replace("\n", "")
    names = [row["name"] for row in json.loads((output / "measurements.json").read_text())]
    assert "held-out loss, nats per pixel" in names
    assert "completions over gRPC" in names
    assert igpt_keras.load(output / "pretrained").tokenizer.vocabulary_size == 16
    assert igpt_keras.load(output / "classifier").num_classes == 10
    assert set(tf.saved_model.load(output / "saved_model" / "1").signatures) == {
        "serving_default",
        "complete",
        "sample",
        "score",
        "classify",
        "classify_images",
        "features",
    }

    before = (output / "measurements.json").read_bytes()
    status, printed, errors = igpt("quickstart", "--output", output)
    assert status == 2, errors
    assert "out exists already" in errors
    assert (output / "measurements.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_a_failing_stage_leaves_nothing(igpt, short, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(digits_demo, "finetuning", fail)
    status, printed, errors = igpt("quickstart", "--output", tmp_path / "out")
    assert status == 2, errors
    assert not list(tmp_path.iterdir())


def test_answers_that_differ_are_noticed():
    def completions(value):
        images = np.full((1, 2, 4, 4, 3), value, np.uint8)
        return Completions(images, images, images)

    classes = digits_demo.Classifications(["a", "b"], np.zeros((1, 2)), np.zeros((1, 2)))
    digits_demo.check_equal(completions(1), completions(1), classes, np.zeros((1, 2)))
    with pytest.raises(RuntimeError, match="2 completions differ"):
        digits_demo.check_equal(completions(1), completions(2), classes, np.zeros((1, 2)))
    with pytest.raises(RuntimeError, match="class logits differ by 1"):
        digits_demo.check_equal(completions(1), completions(1), classes, np.ones((1, 2)))


@pytest.mark.slow
def test_quickstart_keeps_its_promises(tmp_path):
    igpt = pathlib.Path(sys.executable).with_name("igpt")
    output = tmp_path / "out"
    result = subprocess.run(
        [igpt, "quickstart", "--output", output], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    rows = {row["name"]: row for row in json.loads((output / "measurements.json").read_text())}

    def percentages(text):
        return [float(number) for number in re.findall(r"([\d.]+)%", text)]

    loss = rows["held-out loss, nats per pixel"]
    baselines = [float(number) for number in re.findall(r"\d\.\d+", loss["comparison"])]
    assert len(baselines) == 3
    assert float(loss["value"]) < 0.8 * min(baselines)
    for name in ("10 labels per class", "all 1257 labels"):
        row = rows[f"test accuracy, {name}"]
        (pretrained,) = percentages(row["value"])
        from_scratch, _ = percentages(row["comparison"])
        assert pretrained > from_scratch
    assert pretrained > 85

    sheet = np.asarray(Image.open(output / "completions.png"))
    assert min(sheet.shape[:2]) > 700
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 10
