import dataclasses

import keras
import numpy as np
import pytest

from igpt_keras import ImageGPT, ImageGPTConfig, InputError
from igpt_keras.evaluation import layer_states
from igpt_keras.evaluation.features import FeatureExtractor
from igpt_keras.evaluation.layer_states import FrozenModel, LayerStates
from igpt_keras.evaluation.probe_features import LayerFeatures
from igpt_keras.evaluation.probe_methods import FitCheckpoints, fit_probe
from igpt_keras.evaluation.probe_methods.attentive import AdamAtRates, Attentive, AttentiveHeads
from igpt_keras.evaluation.probe_methods.lbfgs import LBFGS
from igpt_keras.evaluation.probes import AttentiveProbe, LinearProbe, ProbeSplits, load_probe
from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager, Interrupted

HEADS, WIDTH, CLASSES = 2, 6, 3


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


@pytest.fixture(scope="module")
def states():
    return np.random.default_rng(0).normal(1, 2, (4, 5, WIDTH)).astype(np.float32)


@pytest.fixture
def probe():
    generator = np.random.default_rng(1)
    shapes = ((HEADS, WIDTH), (HEADS, WIDTH, CLASSES), (CLASSES,))
    return AttentiveProbe(*(generator.normal(0, 1, shape).astype(np.float32) for shape in shapes))


def test_scores_are_those_of_attention_position_by_position(probe, states):
    expected = np.zeros((4, CLASSES))
    for image in range(4):
        expected[image] = probe.bias
        for head in range(HEADS):
            attention = softmax([probe.queries[head] @ x for x in states[image]])
            np.testing.assert_allclose(probe.attention(states)[image, head], attention, rtol=1e-4)
            pooled = sum(a * x for a, x in zip(attention, states[image], strict=True))
            expected[image] += pooled @ probe.weights[head]
    np.testing.assert_allclose(probe.scores(states), expected, rtol=1e-4, atol=1e-4)


def test_with_equal_attention_it_is_the_linear_classifier_of_mean_features(probe, states):
    equal = dataclasses.replace(probe, queries=np.zeros_like(probe.queries))
    linear = LinearProbe(probe.weights.sum(axis=0), probe.bias)
    np.testing.assert_allclose(
        equal.scores(states), linear.scores(states.mean(axis=1)), rtol=1e-4, atol=1e-4
    )


def test_a_probe_is_read_as_it_was_written_and_is_a_keras_model(probe, states, tmp_path):
    probe.save(tmp_path / "probe.npz")
    read = load_probe(tmp_path / "probe.npz")
    for ours, written in zip(read.arrays(), probe.arrays(), strict=True):
        np.testing.assert_array_equal(ours, written)
    logits = keras.ops.convert_to_numpy(read.as_model()(states))
    np.testing.assert_allclose(logits, probe.scores(states), rtol=1e-4, atol=1e-4)


def test_heads_are_cross_attention_with_keys_and_values_of_every_position(states):
    flat = states.reshape(-1, WIDTH).astype(np.float64)
    heads = AttentiveHeads(2, HEADS, flat.mean(axis=0), flat.var(axis=0), CLASSES, seed=0)
    generator = np.random.default_rng(2)
    heads.set_weights([generator.normal(0, 1, w.shape) for w in heads.get_weights()])
    query, key, value, class_kernel, bias = heads.get_weights()
    x = (states - flat.mean(axis=0)) / np.sqrt(flat.var(axis=0) + 1e-6)
    expected = np.empty((4, 2, CLASSES))
    for image in range(4):
        for fit in range(2):
            values = []
            for head in range(HEADS):
                keys = x[image] @ key[fit, head]
                attention = softmax(keys @ query[fit, head] / np.sqrt(WIDTH // HEADS))
                values.append(attention @ (x[image] @ value[fit, head]))
            kernel = class_kernel[fit].reshape(WIDTH, CLASSES)
            expected[image, fit] = np.concatenate(values) @ kernel + bias[fit]
    logits = keras.ops.convert_to_numpy(heads(states))
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
    for fit, arrays in enumerate(heads.folded()):
        scores = AttentiveProbe(*arrays).scores(states)
        np.testing.assert_allclose(scores, expected[:, fit], rtol=1e-3, atol=1e-3)


def test_every_slice_moves_at_its_own_rate():
    variable = keras.Variable(np.zeros((2, 3, 1), np.float32))
    # The first step of Adam is the rate, against the gradient.
    AdamAtRates([0.5, 0.01], decay_steps=10**9).apply([np.full((2, 3, 1), 7.0)], [variable])
    moved = keras.ops.convert_to_numpy(variable)[:, :, 0]
    np.testing.assert_allclose(moved, [[-0.5] * 3, [-0.01] * 3], rtol=1e-4)


@pytest.fixture(scope="module")
def blind():
    """A model of one layer, on images of which a single token says the label."""
    keras.utils.set_random_seed(0)
    config = ImageGPTConfig(4, 8, hidden_dim=16, num_layers=1, num_heads=2)
    model, generator = ImageGPT(config), np.random.default_rng(0)
    model.set_weights([generator.normal(0, 0.3, w.shape) for w in model.get_weights()])
    tokens = generator.integers(0, 8, (300, 16)).astype(np.int32)
    frozen, labels = FrozenModel(model, batch_size=50), (tokens[:, 5] // 4).astype(np.int32)
    parts = (slice(0, 150), slice(150, 220), slice(220, 300))
    splits = [LayerStates.of(frozen, tokens[part], labels[part]) for part in parts]
    return ProbeSplits(*splits, num_classes=2).select([0])


@pytest.mark.slow
def test_attention_finds_the_position_of_the_label_and_the_mean_does_not(blind):
    probe = fit_probe(Attentive([0.03], 2, epochs=50), blind)
    assert probe.setting == {"learning_rate": 0.03, "num_heads": 2}
    assert probe.accuracy(blind.test) > 0.97
    # The model reads the sequence shifted by one.
    states = blind.test.read(slice(None))
    assert probe.attention(states).mean(axis=0).max(axis=0).argmax() == 6
    pooled = [
        LayerFeatures([split.read(slice(None)).mean(axis=1)], split.labels)
        for split in (blind.train, blind.validation, blind.test)
    ]
    linear = fit_probe(LBFGS([1.0, 100.0]), ProbeSplits(*pooled, num_classes=2))
    assert linear.accuracy(pooled[2]) < 0.7


class Stopped(FitCheckpoints):
    """Checkpoints of fits that are told to stop after some steps."""

    def of_next_fit(self):
        class Stopping(CheckpointManager):
            def on_train_batch_end(self, batch, logs=None):
                if self.model.optimizer.iterations == 4:
                    self.stop()
                super().on_train_batch_end(batch, logs)

        return Stopping(super().of_next_fit().folder, max_to_keep=1)


@pytest.mark.slow
def test_rates_train_together_as_alone_and_resumed_as_uninterrupted(blind, tmp_path):
    method = Attentive([0.03, 0.003], epochs=3, seed=1)
    together = list(method.fits(blind.train, 2))
    for probe in together:
        (alone,) = method.with_setting(probe.setting).fits(blind.train, 2)
        for ours, expected in zip(probe.arrays(), alone.arrays(), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(Interrupted):
        list(dataclasses.replace(method, checkpoints=Stopped(tmp_path)).fits(blind.train, 2))
    (folder,) = (tmp_path / "fit-00001").iterdir()
    # The model that does not change is not in a checkpoint: 10 slots of Adam and 6 scalars.
    assert (folder.name, folder.stat().st_size < 100_000) == ("step-00000004", True)
    resumed = dataclasses.replace(method, checkpoints=FitCheckpoints(tmp_path))
    for probe, whole in zip(resumed.fits(blind.train, 2), together, strict=True):
        for ours, expected in zip(probe.arrays(), whole.arrays(), strict=True):
            np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("objective", ["ar", "bert"])
def test_the_mean_of_states_are_the_features(config, randomized, tokens, tmp_path, objective):
    model = randomized(ImageGPT(config, objective))
    features = FeatureExtractor(model, tmp_path, seed=3).features(tokens, vote=1)
    frozen = FrozenModel(model, batch_size=4)
    every = LayerStates.of(frozen, tokens, np.arange(6), seed=3, vote=1)
    some = every.select([0, 2])
    assert (some.width, len(some)) == (32, 6)
    expected = np.concatenate([features[0], features[2]], axis=1)
    np.testing.assert_allclose(some.read(slice(None)).mean(axis=1), expected, atol=1e-5)
    order = np.array([4, 0, 5])
    taken = some.take(order)
    np.testing.assert_allclose(taken.read(slice(None)).mean(axis=1), expected[order], atol=1e-5)
    joined = taken.join(some)
    np.testing.assert_array_equal(joined.labels, [4, 0, 5, *range(6)])
    rows = np.array([1, 2, 6, 8])
    np.testing.assert_allclose(joined.read(rows).mean(axis=1), expected[[0, 5, 3, 5]], atol=1e-5)


def test_states_are_read_in_parts(config, randomized, tokens, monkeypatch):
    states = LayerStates.of(FrozenModel(ImageGPT(config), 4), tokens, np.arange(6)).select([0])
    monkeypatch.setattr(layer_states, "NUMBERS_PER_READ", 2 * 16 * 16)
    assert [len(some) for some in states.read_all()] == [2, 2, 2]


def test_heads_that_cannot_share_the_width_are_named():
    with pytest.raises(InputError, match="num_heads must divide the width 16 of the states, got 3"):
        Attentive.from_options(num_heads=3).check_width(16)
    with pytest.raises(InputError, match="num_heads must be at least 1, got 0"):
        Attentive(num_heads=0)
    with pytest.raises(InputError, match="num_neighbors=3 is for method=knn"):
        Attentive.from_options(num_neighbors=3)
    with pytest.raises(InputError, match="num_heads=3 is for method=attentive"):
        LBFGS.from_options(num_heads=3)
