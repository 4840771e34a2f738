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


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the quickstart printed, and its folder."""
    output = tmp_path_factory.mktemp("quickstart") / "out"
    igpt = pathlib.Path(sys.executable).with_name("igpt")
    result = subprocess.run(
        [igpt, "quickstart", "--output", output], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, output


@pytest.mark.slow
def test_every_stage_writes_what_it_names(written):
    printed, output = written
    assert [path.name for path in output.parent.iterdir()] == ["out"]
    assert {path.name for path in output.iterdir()} == WRITTEN
    for name in WRITTEN:
        assert str(output / name) in printed.replace("\n", "")
    before_tuning = printed[: printed.index("Fine-tuning")].replace("\n", "")
    assert re.search(r"while the rest runs: \S+unfinished\S+completions\.png", before_tuning)
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
    sheet = np.asarray(Image.open(output / "completions.png"))
    assert min(sheet.shape[:2]) > 700
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 10


@pytest.mark.slow
def test_the_measurements_are_better_than_the_baselines(written):
    _, output = written
    rows = {row["name"]: row for row in json.loads((output / "measurements.json").read_text())}
    assert "completions over gRPC" in rows

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


def test_a_folder_that_is_there_is_not_overwritten(igpt, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "measurements.json").write_text("mine")
    status, _, errors = igpt("quickstart", "--output", tmp_path / "out")
    assert (status, errors.count("\n")) == (2, 1)
    assert "out exists already" in errors
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "measurements.json"]
    assert (tmp_path / "out" / "measurements.json").read_text() == "mine"


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
