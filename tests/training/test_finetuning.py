import keras
import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import ImageGPTClassifier, InputError
from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager, Interrupted
from igpt_keras.training.recipes import finetune
from tests.training.stopper import Stopper


class WeightLog(keras.callbacks.Callback):
    """The weights after every epoch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())


def assert_equal_weights(first, second):
    for weight, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(weight, other)


@pytest.mark.parametrize("objective", ["ar", pytest.param("bert", marks=pytest.mark.slow)])
def test_finetune_ends_with_the_weights_of_its_best_epoch(config, counting, objective):
    tokens, labels = counting
    inputs = tokens[64:]
    if objective == "bert":
        masked = np.random.default_rng(0).random(inputs.shape) < 0.15
        inputs = {"tokens": inputs, "masked": masked}
    classifier = ImageGPTClassifier(config, 8, objective)
    log = WeightLog()
    training = finetune(
        classifier,
        (tokens[:64], labels[:64]),
        (inputs, labels[64:]),
        epochs=60,
        patience=4,
        batch_size=16,
        learning_rate=0.01,
        callbacks=[log],
        verbose=0,
    )
    accuracies = training.history["val_accuracy"]
    best = training.best_epoch
    assert best == 1 + int(np.argmax(accuracies))
    assert accuracies[best - 1] > 0.5
    assert len(accuracies) == best + 4 < 60
    assert_equal_weights(classifier.get_weights(), log.weights[best - 1])
    for weights, accuracy in zip(log.weights, accuracies, strict=True):
        classifier.set_weights(weights)
        predictions = classifier.predict(inputs, verbose=0).argmax(axis=1)
        assert accuracy == pytest.approx((predictions == labels[64:]).mean())


def test_without_validation_all_epochs_are_trained_and_the_last_weights_kept(config, counting):
    tokens, labels = counting
    classifier = ImageGPTClassifier(config, 8)
    log = WeightLog()
    training = finetune(
        classifier, counting, None, epochs=3, patience=1, batch_size=32, callbacks=[log], verbose=0
    )
    assert training.best_epoch == len(training.history["loss"]) == 3
    assert not any(name.startswith("val_") for name in training.history)
    assert_equal_weights(classifier.get_weights(), log.weights[-1])


@pytest.mark.slow
def test_a_stream_trains_as_the_arrays_it_holds(config, counting):
    tokens, labels = counting

    def weights_after(train, **settings):
        keras.utils.set_random_seed(1)
        classifier = ImageGPTClassifier(config, 8)
        finetune(classifier, train, None, epochs=2, patience=1, verbose=0, **settings)
        return classifier.get_weights()

    # One batch holds all images, so their order does not matter.
    batches = tf.data.Dataset.from_tensors((tokens, labels)).repeat()
    of_arrays = weights_after((tokens, labels), batch_size=96)
    of_stream = weights_after(lambda step: batches, steps_per_epoch=1)
    for weight, other in zip(of_arrays, of_stream, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)
    longer = weights_after(lambda step: batches, steps_per_epoch=2)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(of_stream, longer, strict=True))


STEPS_PER_EPOCH, PATIENCE = 3, 4


def tuned(config, counting, checkpoints, *callbacks, seed=1):
    """A fine-tuning that stops early: a classifier, how it went, and the weights on the way."""
    tokens, labels = counting

    def batches(step):
        def batch(step):
            rows = tf.random.stateless_uniform([16], tf.stack([4, step]), 0, 64, tf.int32)
            return tf.gather(tokens, rows), tf.gather(labels, rows)

        return tf.data.Dataset.range(step, 1000).map(batch)

    keras.utils.set_random_seed(seed)
    classifier = ImageGPTClassifier(config, 8)
    log = WeightLog()
    training = finetune(
        classifier,
        batches,
        (tokens[64:], labels[64:]),
        epochs=60,
        patience=PATIENCE,
        batch_size=16,
        steps_per_epoch=STEPS_PER_EPOCH,
        learning_rate=0.01,
        checkpoints=checkpoints,
        callbacks=[log, *callbacks],
        verbose=0,
    )
    return classifier, training, log


@pytest.mark.slow
def test_a_fine_tuning_that_was_stopped_ends_like_one_that_was_not(config, counting, tmp_path):
    whole, expected, log = tuned(config, counting, CheckpointManager(tmp_path / "whole", 100))
    best, epochs = expected.best_epoch, len(expected.history["loss"])
    assert 1 < best == epochs - PATIENCE
    # In the first epoch, behind the best one, within the epoch of the early stop, and at its end.
    stops = [2, best * STEPS_PER_EPOCH + 4, epochs * STEPS_PER_EPOCH - 1]
    stops.append(epochs * STEPS_PER_EPOCH)
    done = 0
    for index, stop in enumerate(stops):
        checkpoints = CheckpointManager(tmp_path / "cut", 100)
        # What a resumed training draws to begin with must not matter.
        seed = {"seed": 50 + index} if index else {}
        with pytest.raises(Interrupted, match=f"after step {stop}$"):
            tuned(config, counting, checkpoints, Stopper(checkpoints, stop - done), **seed)
        done = stop
    resumed, training, _ = tuned(
        config, counting, CheckpointManager(tmp_path / "cut", 100), seed=99
    )
    assert training == expected
    assert_equal_weights(resumed.get_weights(), whole.get_weights())
    assert_equal_weights(resumed.get_weights(), log.weights[best - 1])


def test_what_cannot_be_trained_on(config, counting, tmp_path):
    batches = tf.data.Dataset.from_tensors(counting).repeat()
    settings = {"epochs": 1, "patience": 1}
    classifier = ImageGPTClassifier(config, 8)
    with pytest.raises(InputError, match="steps_per_epoch must be given"):
        finetune(classifier, lambda step: batches, None, **settings)
    with pytest.raises(InputError, match="train must be a tuple of inputs and labels"):
        finetune(classifier, batches, None, steps_per_epoch=1, **settings)
    with pytest.raises(InputError, match="checkpoints need train as a function"):
        finetune(classifier, counting, None, checkpoints=CheckpointManager(tmp_path, 1), **settings)
