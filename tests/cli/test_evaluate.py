import math

import numpy as np
import pytest

import igpt_keras
from igpt_keras.data.data_set import open_data
from igpt_keras.data.image_decoding import read_image
from igpt_keras.data.tokenization import tokenize
from igpt_keras.runs.result import read_result


def test_evaluate_a_generative_model_and_its_baselines(igpt, photos, pretrained, tmp_path):
    path = pretrained("ar")
    run = tmp_path / "run"
    status, printed, _ = igpt("evaluate", path, "--data", f"folder:{photos}", "--output", run)
    assert status == 0
    result = read_result(run)
    metrics = result.metrics
    assert (result.kind, result.model["name"]) == ("evaluate", "before")
    model = igpt_keras.load(path)
    files = sorted(photos.glob("test/*/*.png"))
    images = np.stack([read_image(file, 4) for file in files])
    model.compile()
    tokens = model.tokenizer.tokenize(images)
    nll = model.evaluate(tokens, verbose=0, return_dict=True)["loss"]
    assert metrics["test_loss"] == pytest.approx(nll, abs=1e-5)
    assert metrics["test_bits_per_pixel"] == pytest.approx(nll / math.log(2), abs=1e-5)
    assert metrics["validation_loss"] != metrics["test_loss"]
    train = tokenize(open_data(f"folder:{photos}").train, model.tokenizer).tokens
    counts = 1 + np.bincount(train.ravel(), minlength=8)
    unigram = -np.log(counts / counts.sum())[tokens].mean()
    assert metrics["baselines"]["test"]["unigram"] == pytest.approx(unigram)
    for split in ("validation", "test"):
        assert metrics["baselines"][split]["uniform"] == pytest.approx(math.log(8))
        assert f"{metrics[f'{split}_loss']:.4f}" in printed
    assert "test_accuracy" not in metrics


def test_evaluate_a_classifier(igpt, photos, pretrained, tmp_path):
    path = pretrained(
        "bert", igpt_keras.ImageGPTClassifier, num_classes=2, class_names=["dark", "light"]
    )
    run = tmp_path / "run"
    status, printed, _ = igpt(
        *("evaluate", path, "--data", f"folder:{photos}", "--output", run, "--no-baselines")
    )
    assert status == 0
    metrics = read_result(run).metrics
    for split, count in (("validation", 4), ("test", 12)):
        for name in ("accuracy", "single_mask_accuracy"):
            share = metrics[f"{split}_{name}"]
            assert 0 <= share <= 1
            assert share * count == pytest.approx(round(share * count))
        assert f"{metrics[f'{split}_accuracy']:.2%}" in printed
    assert metrics["votes"] == 5
    assert "baselines" not in metrics


def test_evaluate_images_without_labels_or_test_part(igpt, photos, pretrained, tmp_path):
    run = tmp_path / "run"
    path, data = pretrained("ar"), f"folder:{photos / 'train' / 'dark'}"
    status, _, _ = igpt("evaluate", path, "--data", data, "--output", run)
    assert status == 0
    metrics = read_result(run).metrics
    assert "test_loss" not in metrics
    assert set(metrics["baselines"]) == {"validation"}
    status, _, error = igpt(
        *("evaluate", path, "--data", data, "--output", tmp_path / "other", "--train-on-validation")
    )
    assert status == 2
    assert "neither a validation split nor a test split" in error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"palette": False}, "has no tokenizer"),
        (
            {
                "model_class": igpt_keras.ImageGPTClassifier,
                "num_classes": 6,
                "class_names": ["cat", "dog", "owl", "ant", "bee", "cow"],
            },
            "cat, dog, owl, ant, bee, … (6 in all); got dark, light",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_named(igpt, photos, pretrained, tmp_path, settings, message):
    status, _, error = igpt(
        *("evaluate", pretrained("ar", **settings), "--data", f"folder:{photos}"),
        *("--output", tmp_path / "run"),
    )
    assert status == 2
    assert message in error
    assert not (tmp_path / "run").exists()
