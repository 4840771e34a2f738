"""Greedy layer-wise pre-training: principal components, noise, what trains when, and RBMs."""

import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.linalg import subspace_angles
from scipy.special import expit

from igpt_keras.data.labeled import LabeledImages, per_class
from igpt_keras.evaluation.low_data import low_data_runs
from igpt_keras.evaluation.probe_features import LayerFeatures
from igpt_keras.evaluation.probe_methods.lbfgs import LBFGS
from igpt_keras.evaluation.probes import ProbeSplits
from tests.examples.baselines import opened

# What TensorFlow says where functions run eagerly.
pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config")
few_labels = opened("few_labels")


@pytest.fixture
def layerwise(monkeypatch):
    module = opened("layerwise")
    monkeypatch.setattr(module, "WIDTHS", (6, 5))
    monkeypatch.setattr(module, "AUTOENCODER_EPOCHS", 1)
    monkeypatch.setattr(module, "RBM_EPOCHS", 2)
    return module


@pytest.fixture
def eager():
    """Runs the few steps of a test without tracing graphs for them."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def random_split(seed, count=32):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    return LabeledImages(np.repeat(images, 3, axis=-1), np.arange(count, dtype=np.int32) % 4)


def test_a_linear_autoencoder_spans_the_principal_components(layerwise):
    deviations = np.array([3, 2, 1.5, 0.5, 0.3, 0.2])
    x = np.random.default_rng(0).normal(size=(64, 6)) * deviations
    x = (x @ np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]).astype(np.float32)
    x -= x.mean(axis=0)
    layer = keras.layers.Dense(3)
    autoencoder = layerwise.DenoisingAutoencoder(layer, masking=0)
    autoencoder.compile(keras.optimizers.Adam(0.03), "mse", steps_per_execution=300)
    autoencoder.fit(np.tile(x, (300, 1)), np.tile(x, (300, 1)), 64, shuffle=False, verbose=0)
    _, singular, axes = np.linalg.svd(x)
    assert subspace_angles(np.asarray(layer.kernel), axes[:3].T).max() < 1e-3
    error = np.square(np.asarray(autoencoder(x)) - x).sum()
    assert error == pytest.approx(np.square(singular[3:]).sum(), rel=1e-3)


def test_a_share_of_the_inputs_is_masked_in_training_only(layerwise):
    x = np.random.default_rng(0).uniform(0.1, 1, (50, 40)).astype(np.float32)
    layer = keras.layers.Dense(40, kernel_initializer="identity")
    autoencoder = layerwise.DenoisingAutoencoder(layer, masking=0.3)
    np.testing.assert_array_equal(autoencoder(x), x)
    masked = np.asarray(autoencoder(x, training=True))
    np.testing.assert_array_equal(masked, np.where(masked == 0, 0, x))
    assert (masked == 0).mean() == pytest.approx(0.3, abs=0.04)  # four standard deviations
    assert (np.asarray(autoencoder(x, training=True)) != masked).any()


def test_the_decoder_has_the_transposed_kernel_and_the_activation(layerwise):
    x = np.random.default_rng(0).uniform(size=(4, 7)).astype(np.float32)
    autoencoder = layerwise.DenoisingAutoencoder(keras.layers.Dense(3, "sigmoid"))
    autoencoder.build(x.shape)
    generator = np.random.default_rng(1)
    kernel, bias, decoder_bias = (generator.normal(size=s) for s in ((7, 3), (3,), (7,)))
    autoencoder.layer.set_weights([kernel, bias])
    autoencoder.bias.assign(decoder_bias)
    expected = expit(expit(x @ kernel + bias) @ kernel.T + decoder_bias)
    np.testing.assert_allclose(autoencoder(x), expected, atol=1e-6)


def test_one_layer_trains_at_a_time_on_the_states_below(layerwise, eager, monkeypatch):
    split = random_split(0)
    network = layerwise.make_network(0)
    fits = []

    class Recorded(layerwise.DenoisingAutoencoder):
        def fit(self, x, *arguments, **settings):
            before = [layer.get_weights() for layer in network.layers]
            super().fit(x, *arguments, **settings)
            after = [layer.get_weights() for layer in network.layers]
            pairs = zip(before, after, strict=True)
            fits.append((x, [not np.array_equal(old[0], new[0]) for old, new in pairs]))

    monkeypatch.setattr(layerwise, "DenoisingAutoencoder", Recorded)
    layerwise.train_autoencoders(network, layerwise.pixels(split), 0)
    (x, first), (h, second) = fits
    assert first == [True, False, False]
    assert second == [False, True, False]
    np.testing.assert_allclose(x, split.images[..., 1].reshape(32, 64) / 255, atol=1 / 32)
    kernel, bias = network.layers[0].get_weights()
    np.testing.assert_allclose(h, expit(x @ kernel + bias), atol=1e-6)


def test_the_seed_decides_the_weights(layerwise, eager, monkeypatch):
    monkeypatch.setattr(layerwise, "WIDTHS", (5,))
    x = layerwise.pixels(random_split(0))

    def trained(seed):
        network = layerwise.make_network(0)
        layerwise.train_autoencoders(network, x, seed)
        return network.layers[0].get_weights()[0]

    kernel = trained(3)
    np.testing.assert_array_equal(trained(3), kernel)
    assert not np.array_equal(trained(4), kernel)


def test_rbms_become_the_layers(layerwise):
    split = random_split(0)
    network = layerwise.make_network(0)
    pipeline = layerwise.train_rbms(network, layerwise.pixels(split), seed=5)
    states = layerwise.pixels(split)
    for _, rbm in pipeline.steps:
        states = rbm.transform(states)
    assert states.shape == (32, 5)
    np.testing.assert_allclose(layerwise.states(network, split), states, atol=1e-5)
    again = layerwise.train_rbms(layerwise.make_network(1), layerwise.pixels(split), seed=5)
    np.testing.assert_array_equal(again[1].components_, pipeline[1].components_)


def test_probes_have_the_labels_of_the_package():
    generator = np.random.default_rng(0)
    features = []
    for count in (60, 20, 40):
        labels = np.arange(count) % 10
        means = 3 * np.eye(10)[labels]
        features.append(LayerFeatures([means + generator.normal(size=means.shape)], labels))
    (run,) = low_data_runs(LBFGS(), ProbeSplits(*features, num_classes=10), [2], subsets=3, seed=4)
    rows = [per_class(features[0].labels, 2, seed) for seed in (4, 5, 6)]
    assert [few_labels.probe(features, some) for some in rows] == run["accuracies"]


def test_the_table_has_means_and_deviations(monkeypatch):
    monkeypatch.setattr(few_labels, "LABELS", (5, None))
    table = few_labels.table([{"one": [0.5, 1.0]}, {"one": [0.6, 1.0]}, {"one": [0.7, 1.0]}])
    head, _, row = table.splitlines()
    assert head == "| labels per class | 5 | all |"
    assert row == "| one | 60.0 ± 10.0 | 100.0 ± 0.0 |"


@pytest.mark.slow
def test_every_fine_tuning_starts_from_the_network(layerwise, monkeypatch):
    monkeypatch.setattr(layerwise, "FINE_TUNING_EPOCHS", 2)
    monkeypatch.setattr(layerwise, "FINE_TUNING_RATE", 0.05)
    splits = tuple(random_split(seed, 200) for seed in range(3))
    for split in splits:
        for label in range(4):
            split.images[split.labels == label, 2 * label : 2 * label + 2] = 255
    network = layerwise.make_network(0)
    before = network.get_weights()
    accuracy = layerwise.fine_tuning(network, splits, seed=0)
    two_classes, all_classes = np.array([0, 1, 4, 5]), np.arange(200)
    first = accuracy(two_classes)
    assert first <= 0.5
    assert accuracy(all_classes) > 0.9
    assert accuracy(two_classes) == first
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.slow
def test_the_script_measures_every_method(layerwise, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(few_labels, "LABELS", (2, None))
    monkeypatch.setattr(few_labels, "IMAGE_GPT_EPOCHS", 1)
    monkeypatch.setattr(few_labels, "FINE_TUNING_EPOCHS", 1)
    monkeypatch.setattr(layerwise, "FINE_TUNING_EPOCHS", 3)
    monkeypatch.setattr(sys, "argv", ["layerwise.py", "--output", str(tmp_path), "--seeds", "2"])
    layerwise.main()
    runs = json.loads((tmp_path / "accuracy.json").read_text())
    assert len(runs) == 2
    for run in runs:
        assert len(run) == 9
        assert run["pixels, logistic regression"][1] > 0.9
        assert all(0 <= accuracy <= 1 for values in run.values() for accuracy in values)
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0][2:] for line in table[2:]] == list(runs[0])
    assert Image.open(tmp_path / "accuracy.png").width > 600
