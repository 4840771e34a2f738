import json
import math

import numpy as np
import pytest
from PIL import Image

import igpt_keras
from igpt_keras.evaluation.results import read_result
from igpt_keras.evaluation.voting import draw_mask
from igpt_keras.experiments.finetuning import Settings, load_start


def test_part(photos, palette):
    """Tokens and labels of the test images, read without `igpt_keras.data`."""
    files = sorted(photos.glob("test/*/*.png"))
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    labels = np.array([file.parent.name == "light" for file in files], int)
    return palette.quantize(images).reshape(len(files), -1), labels


test_part.__test__ = False


def test_finetune_keeps_the_best_epoch_and_measures_it(igpt, photos, pretrained, tmp_path):
    run = tmp_path / "run"
    model = pretrained("ar")
    status, printed, _ = igpt(
        *("finetune", model, "--data", f"folder:{photos}", "--output", run, "--batch-size", 8),
        *("--epochs", 4, "--patience", 2, "--learning-rate", 0.01),
    )
    assert status == 0
    result = read_result(run)
    figures, settings = result.figures, result.settings
    history = figures["history"]["val_accuracy"]
    assert figures["best_epoch"] == 1 + int(np.argmax(history))
    assert len(history) <= min(4, figures["best_epoch"] + 2)
    assert figures["validation_accuracy"] == pytest.approx(max(history))
    assert (result.kind, result.model["name"], result.model["step"]) == ("finetune", "before", 7)
    assert result.data["train"] == 36
    assert (settings["start"], settings["layer"], settings["generative_weight"]) == (
        "pretrained",
        2,
        1.0,
    )

    classifier = igpt_keras.load(run / "model")
    assert classifier.class_names == ["dark", "light"]
    tokens, labels = test_part(photos, classifier.palette)
    logits = classifier.predict(tokens, verbose=0).astype(float)
    assert figures["test_accuracy"] == np.mean(logits.argmax(axis=1) == labels)
    classifier.compile()
    nats = classifier.evaluate(tokens, labels, verbose=0, return_dict=True)["bits_per_pixel"]
    assert figures["test_generative_loss"] == pytest.approx(nats * math.log(2), abs=1e-5)
    assert (figures["single_mask_accuracy"], figures["votes"]) == (None, None)

    training = json.loads((run / "model" / "training.json").read_text())
    assert (training["name"], training["data"]) == ("run", f"folder:{photos}")
    assert training["step"] == 5 * figures["best_epoch"]
    assert training["validation_loss"] > 0
    assert f"{figures['test_accuracy']:.2%}" in printed
    assert str(run / "model") in printed


def test_finetune_bert_from_a_middle_layer_on_all_training_images(
    igpt, photos, pretrained, tmp_path
):
    run = tmp_path / "run"
    status, printed, _ = igpt(
        *("finetune", pretrained("bert"), "--data", f"folder:{photos}", "--output", run),
        *("--fold-validation", "--generative-weight", 0, "--layer", 1, "--batch-size", 20),
        *("--epochs", 2, "--patience", 1, "--learning-rate", 0.01, "--seed", 3),
    )
    assert status == 0
    assert "exactly 2 epochs" in printed
    result = read_result(run)
    figures = result.figures
    assert result.data["train"] == 40
    assert figures["best_epoch"] == len(figures["history"]["loss"]) == 2
    assert figures["validation_accuracy"] is figures["test_generative_loss"] is None

    classifier = igpt_keras.load(run / "model")
    assert (classifier.layer, classifier.generative_weight) == (1, 0)
    tokens, labels = test_part(photos, classifier.palette)
    votes = []
    for vote in range(5):
        masked = draw_mask(tokens.shape, 0.15, 3, vote)
        logits = classifier.predict({"tokens": tokens, "masked": masked}, verbose=0)
        votes.append(logits.argmax(axis=1))
    # Of two classes and five votes, one always has more.
    assert figures["test_accuracy"] == np.mean((np.sum(votes, axis=0) > 2) == labels)
    assert figures["single_mask_accuracy"] == np.mean(votes[0] == labels)
    assert figures["votes"] == 5


def test_finetune_from_scratch_takes_no_weights_of_the_model(igpt, photos, pretrained, tmp_path):
    model, run = pretrained("ar"), tmp_path / "run"
    # So low a rate leaves the weights where they started.
    status, _, _ = igpt(
        *("finetune", model, "--data", f"folder:{photos}", "--output", run, "--from-scratch"),
        *("--epochs", 1, "--learning-rate", 1e-20, "--labels-per-class", 3, "--seed", 4),
    )
    assert status == 0
    result = read_result(run)
    assert result.settings["start"] == "scratch"
    assert (result.model["step"], result.model["data"]) == (None, None)
    assert result.data["train"] == 6

    def embedding(seed, from_scratch=True):
        settings = Settings(from_scratch, 1.0, None, 1, 1, 8, 0.01, None, seed)
        return load_start(model, settings).backbone.get_weights()[0]

    trained = igpt_keras.load(run / "model").backbone.get_weights()[0]
    np.testing.assert_array_equal(trained, embedding(4))
    assert (trained != embedding(5)).any()
    started = igpt_keras.load(model).backbone.get_weights()[0]
    np.testing.assert_array_equal(embedding(4, from_scratch=False), started)
    # New token embeddings are N(0, 0.02); those of the model here have 0.3.
    assert trained.std() < 0.03 < started.std()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"palette": False}, "has no palette"),
        ({"model_class": igpt_keras.ImageGPTClassifier, "num_classes": 2}, "is a classifier"),
        ({"options": ("--layer", 3)}, "layer must lie in 0…2, got 3"),
        (
            {"options": ("--labels-per-class", 3, "--augmentation", "cifar")},
            "got augmentation=cifar",
        ),
        ({"data": "test"}, "has no test part"),
        ({"data": "test/dark"}, "has no labels"),
    ],
)
def test_what_cannot_be_finetuned_is_named_and_nothing_written(
    igpt, photos, pretrained, tmp_path, change, message
):
    options, data = change.pop("options", ()), change.pop("data", "")
    model = pretrained("ar", **change)
    status, _, error = igpt(
        *("finetune", model, "--data", f"folder:{photos / data}", "--output", tmp_path / "run"),
        *options,
    )
    assert status == 2
    assert message in error
    assert not (tmp_path / "run").exists()


def test_an_earlier_run_is_kept_unless_told_otherwise(igpt, photos, pretrained, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "result.json").write_text("{}")
    status, _, error = igpt(
        "finetune", pretrained("ar"), "--data", f"folder:{photos}", "--output", run
    )
    assert status == 2
    assert "run exists already" in error
    assert (run / "result.json").read_text() == "{}"
