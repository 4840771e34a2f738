"""Pre-training that a probe follows."""

import dataclasses
import os
import signal

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import RidgeClassifier

import igpt_keras
from igpt_keras import InputError
from igpt_keras.data.data_set import open_data
from igpt_keras.data.tokenization import tokenize
from igpt_keras.errors import Interrupted
from igpt_keras.evaluation.probe_methods.ridge import ALPHAS
from igpt_keras.report import write_report
from igpt_keras.runs import Pretrain
from igpt_keras.training.callbacks.history_logger import read_history

SIZES = {"image_size": 8, "num_layers": 2, "hidden_dim": 16, "num_heads": 1, "num_colors": 8}
SETTINGS = Pretrain.Settings(
    **SIZES, steps=24, batch_size=32, snapshots=2, learning_rate=0.01, probe_data="digits"
)


class Stops(keras.callbacks.Callback):
    """Sends the process a signal after a step."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 15:
            os.kill(os.getpid(), signal.SIGTERM)


def accuracies(folder):
    found = [record.get("val_probe_accuracy") for record in read_history(folder)]
    return [value for value in found if value is not None]


def best_accuracy(model, layer):
    """By scikit-learn, with the best of the same strengths."""
    data = open_data("digits")
    splits = [tokenize(split, model.tokenizer) for split in (data.train, data.validation)]
    x, y = (np.asarray(model.features(split.tokens, layer), np.float64) for split in splits)
    unit = len(x) * x.var(axis=0).sum()
    fits = (RidgeClassifier(alpha=alpha * unit).fit(x, splits[0].labels) for alpha in ALPHAS)
    return max(fit.score(y, splits[1].labels) for fit in fits)


@pytest.mark.slow
def test_accuracies_are_logged_and_the_same_after_a_resume(tmp_path):
    result = Pretrain.open(SETTINGS, "digits", tmp_path / "whole").run()
    logged = accuracies(tmp_path / "whole")
    assert result.metrics["history"]["val_probe_accuracy"] == logged
    for saved, accuracy in zip(result.metrics["snapshots"], logged, strict=True):
        model = igpt_keras.load(tmp_path / "whole" / saved["path"])
        assert accuracy == pytest.approx(best_accuracy(model, layer=1), abs=0.01)
    with pytest.raises(Interrupted):
        Pretrain.open(SETTINGS, "digits", tmp_path / "resumed").run([Stops()])
    resumed = Pretrain.open(SETTINGS, "digits", tmp_path / "resumed", resume=True).run()
    assert accuracies(tmp_path / "resumed") == logged
    assert resumed.metrics["history"] == result.metrics["history"]
    plain = dataclasses.replace(SETTINGS, probe_data=None)
    without = Pretrain.open(plain, "digits", tmp_path / "without").run()
    assert without.metrics["history"]["val_loss"] == result.metrics["history"]["val_loss"]
    assert "val_probe_accuracy" not in without.metrics["history"]
    write_report([tmp_path / "whole", tmp_path / "without"], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Probes by step" in page and f"{100 * logged[-1]:.1f}" in page
    assert (tmp_path / "report" / "probe-curves.png").is_file()


@pytest.mark.slow
def test_replicas_are_probed_once(tmp_path):
    mirrored = dataclasses.replace(SETTINGS, strategy="mirrored", probe_layer=2)
    result = Pretrain.open(mirrored, "digits", tmp_path / "run").run()
    model = igpt_keras.load(tmp_path / "run")
    last = result.metrics["history"]["val_probe_accuracy"][-1]
    assert last == pytest.approx(best_accuracy(model, layer=2), abs=0.01)


def test_probes_that_cannot_be_are_named(tmp_path):
    with pytest.raises(InputError, match="probe_layer=1 needs probe_data, got none"):
        dataclasses.replace(SETTINGS, probe_data=None, probe_layer=1)
    with pytest.raises(InputError, match="probe_layer must lie in 0…2, got 3"):
        Pretrain.check(dataclasses.replace(SETTINGS, probe_layer=3), "digits")
    (tmp_path / "flat").mkdir()
    for index in range(12):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "flat" / f"{index}.png")
    unlabeled = f"folder:{tmp_path / 'flat'}"
    with pytest.raises(InputError, match=f"data={unlabeled} has no labels"):
        Pretrain.check(dataclasses.replace(SETTINGS, probe_data=unlabeled), "digits")
