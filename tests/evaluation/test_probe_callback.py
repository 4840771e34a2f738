import inspect
import json

import keras
import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from igpt_keras import ColorPalette, ImageGPT, ImageGPTConfig, InputError
from igpt_keras.evaluation.probe_callback import ProbeCallback
from igpt_keras.evaluation.probe_methods.ridge import ALPHAS
from igpt_keras.training.callbacks.history_logger import HistoryLogger


def labeled_tokens():
    """Tokens whose labels can be read off them, with exceptions."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 90)
    tokens = generator.integers(0, 8, (90, 16)).astype(np.int32)
    tokens[:, :3] = labels[:, None]
    labels[::6] = generator.integers(0, 3, 15)
    return (tokens[:60], labels[:60]), (tokens[60:], labels[60:])


def best_accuracy(model, train, held_out, layer):
    """By scikit-learn, with the best of the same strengths."""
    x, y = (np.asarray(model.features(t, layer), np.float64) for t, _ in (train, held_out))
    unit = len(x) * x.var(axis=0).sum()
    fits = (RidgeClassifier(alpha=alpha * unit).fit(x, train[1]) for alpha in ALPHAS)
    return max(fit.score(y, held_out[1]) for fit in fits)


@pytest.mark.parametrize("layer", [None, 2])
def test_the_accuracy_is_that_of_the_weights_of_the_moment(config, randomized, layer):
    train, held_out = labeled_tokens()
    model = randomized(ImageGPT(config))
    callback = ProbeCallback(*train, *held_out, layer=layer)
    callback.set_model(model)
    callback.on_train_begin()
    accuracies = []
    for epoch in range(2):
        logs = {"loss": 1.0}
        callback.on_epoch_end(epoch, logs)
        expected = best_accuracy(model, train, held_out, 1 if layer is None else layer)
        # Rounding may decide an image between two classes, or when the search ends.
        assert logs["val_probe_accuracy"] == pytest.approx(expected, abs=1 / 30 + 1e-9)
        accuracies.append(logs["val_probe_accuracy"])
        model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    # Features of a model without weights say nothing.
    assert accuracies[0] > 0.5 > accuracies[1]


def test_masks_are_the_same_in_every_epoch(config, randomized):
    train, held_out = labeled_tokens()
    callback = ProbeCallback(*train, *held_out)
    callback.set_model(randomized(ImageGPT(config, "bert")))
    callback.on_train_begin()
    logs = [{}, {}]
    for epoch in range(2):
        callback.on_epoch_end(epoch, logs[epoch])
    assert logs[0] == logs[1]


def test_images_are_probed_as_their_tokens(config, randomized, palette):
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = (generator.integers(0, 130, (40, 4, 4, 3)) + 125 * labels[:, None, None, None]).astype(
        np.uint8
    )
    model = randomized(ImageGPT(config, tokenizer=palette))
    accuracies = []
    for inputs in (images, palette.bind(4).tokenize(images)):
        callback = ProbeCallback(inputs[:24], labels[:24], inputs[24:], labels[24:])
        callback.set_model(model)
        callback.on_train_begin()
        logs = {}
        callback.on_epoch_end(0, logs)
        accuracies.append(logs["val_probe_accuracy"])
    assert accuracies[0] == accuracies[1] > 0.8


@pytest.mark.slow
def test_its_example_runs(randomized, tmp_path, monkeypatch):
    palette = ColorPalette(np.random.default_rng(0).uniform(-1, 1, (16, 3)))
    sizes = ImageGPTConfig(8, 16, hidden_dim=16, num_layers=1, num_heads=2)
    ImageGPT(sizes, tokenizer=palette).save_to_preset(tmp_path / "digits-model")
    monkeypatch.chdir(tmp_path)
    code = ProbeCallback.__doc__.split("```python\n")[1].split("```")[0]
    namespace = {}
    exec(inspect.cleandoc(code), namespace)
    accuracies = namespace["history"].history["val_probe_accuracy"]
    assert len(accuracies) == 2 and min(accuracies) > 0.2


def test_a_worker_that_does_not_write_leaves_the_logs(config):
    train, held_out = labeled_tokens()
    callback = ProbeCallback(*train, *held_out, writes=False)
    callback.set_model(ImageGPT(config))
    callback.on_train_begin()
    logs = {}
    callback.on_epoch_end(0, logs)
    assert logs == {}


@pytest.mark.slow
def test_history_and_events_have_it_and_training_does_not_change(config, randomized, tmp_path):
    train, held_out = labeled_tokens()
    weights, histories = [], []
    for callbacks in ([], [ProbeCallback(*train, *held_out), HistoryLogger(tmp_path, 100, 30)]):
        keras.utils.set_random_seed(0)
        model = randomized(ImageGPT(config))
        model.compile(keras.optimizers.SGD(0.1))
        fitted = model.fit(train[0], batch_size=30, epochs=2, callbacks=callbacks, verbose=0)
        histories.append(fitted.history)
        weights.append(model.get_weights())
    for ours, without in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, without)
    accuracies = histories[1].pop("val_probe_accuracy")
    assert histories[0] == histories[1]
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    recorded = [record.get("val_probe_accuracy") for record in map(json.loads, lines)]
    assert [value for value in recorded if value is not None] == accuracies
    assert accuracies[-1] == pytest.approx(
        best_accuracy(model, train, held_out, 1), abs=1 / 30 + 1e-9
    )


def test_unusable_labels_are_named_before_the_training():
    (tokens, labels), held_out = labeled_tokens()
    with pytest.raises(InputError, match="labels of train must be one for each of 60 images"):
        ProbeCallback(tokens, labels[1:], *held_out)
    with pytest.raises(InputError, match="labels of train must lie in 0…2"):
        ProbeCallback(tokens, labels - 1, *held_out)
    with pytest.raises(InputError, match="two classes"):
        ProbeCallback(tokens, np.zeros_like(labels), *held_out)
