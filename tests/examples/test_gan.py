"""The game of a GAN in closed form, its networks, who trains when, and seeds."""

import re
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import igpt_keras
from tests.examples.baselines import FOLDER, opened

gan = opened("gan")
networks = opened("gan_networks")
gray_images = opened("gray_images")
CLASSES, PIXELS = 3, 4


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(gan, "BATCH_SIZE", 4)
    monkeypatch.setattr(gan, "EPOCHS", 1)


def small_gan(num_classes=0, k=1, steps=10):
    generator = networks.build_generator(np.full(PIXELS, 0.5), 12, num_classes)
    return gan.GAN(generator, networks.build_discriminator(PIXELS, 5, num_classes), steps, k)


def random_images(count=12):
    pixels = np.random.default_rng(0).uniform(size=(count, PIXELS)).astype(np.float32)
    labels = np.arange(count) % CLASSES
    return gray_images.GrayImages(pixels, pixels, pixels, labels, pixels, 16)


def test_value_of_the_optimal_discriminator():
    # Shares of three images among the data and among what G draws.
    real, fake = np.array([2, 1, 1]), np.array([1, 1, 2])
    logits = tf.constant(np.log(real / fake))

    def value_of(logits):
        return gan.value(*(tf.repeat(logits, counts) for counts in (real, fake)))

    with tf.GradientTape() as tape:
        tape.watch(logits)
        best = value_of(logits)
    gradient: Any = tape.gradient(best, logits)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    p, q = real / 4, fake / 4
    divergence = (p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))).sum() / 2
    assert float(best) == pytest.approx(-np.log(4) + 2 * divergence)
    assert float(value_of(tf.zeros(3))) == pytest.approx(-np.log(4))


def test_the_generator_learns_where_the_discriminator_is_sure():
    logit = tf.constant([[-20.0]])
    with tf.GradientTape() as tape:
        tape.watch(logit)
        loss = gan.non_saturating_loss(logit)
    assert float(loss) == pytest.approx(20)
    gradient: Any = tape.gradient(loss, logit)
    assert gradient.numpy().item() == pytest.approx(-1)


def test_maxout():
    layer = networks.Maxout(units=3, pieces=2)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    found = layer(x)
    kernel, _ = layer.get_weights()
    biases = np.arange(6, dtype=np.float32)
    layer.set_weights([kernel, biases])
    functions = x @ kernel + biases
    expected = [functions[:, 2 * unit : 2 * unit + 2].max(axis=1) for unit in range(3)]
    np.testing.assert_allclose(layer(x), np.stack(expected, axis=1), rtol=1e-5)
    assert found.shape == (5, 3)
    assert layer.count_params() == 4 * 6 + 6


@pytest.mark.parametrize("num_classes", [0, CLASSES])
def test_an_untrained_generator_draws_about_the_mean(num_classes):
    mean = np.array([0, 0.1, 0.5, 1])
    inputs = [np.zeros((1, size), np.float32) for size in (100, num_classes) if size]
    found = networks.build_generator(mean, 12, num_classes)(inputs)
    np.testing.assert_allclose(found[0], [0.001, 0.1, 0.5, 0.999], rtol=1e-4)


@pytest.mark.parametrize("num_classes", [0, CLASSES])
def test_dropout_is_in_the_discriminator_only(num_classes):
    model = small_gan(num_classes)
    rates = [
        [layer.rate for layer in each.layers if isinstance(layer, keras.layers.Dropout)]
        for each in (model.discriminator, model.generator)
    ]
    assert rates == [[0.2, 0.5, 0.5], []]


def test_sgd_is_that_of_keras_where_momentum_is_constant(monkeypatch):
    monkeypatch.setattr(gan, "LAST_MOMENTUM", gan.FIRST_MOMENTUM)
    monkeypatch.setattr(gan, "DECAY", 1)
    ours, theirs = (keras.Variable([1.0, -2.0]) for _ in range(2))
    sgd = gan.MomentumSGD([ours], steps=3)
    reference = keras.optimizers.SGD(gan.LEARNING_RATE, gan.FIRST_MOMENTUM)
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(ours**4)
        sgd.descend(tape, loss)
        reference.apply([4 * theirs**3], [theirs])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_momentum_grows_and_the_rate_falls(monkeypatch):
    monkeypatch.setattr(gan, "DECAY", 2)
    weight = keras.Variable(0.0)
    sgd = gan.MomentumSGD([weight], steps=2)
    position = velocity = 0.0
    for momentum, rate in ((0.5, 0.1), (0.6, 0.05), (0.7, 0.025), (0.7, 0.0125)):
        with tf.GradientTape() as tape:
            loss = 3 * weight
        sgd.descend(tape, loss)
        velocity = momentum * velocity - 3 * rate
        position += velocity
        assert float(weight) == pytest.approx(position)


@pytest.mark.parametrize("num_classes", [0, CLASSES])
def test_each_network_trains_on_its_own_steps(num_classes, monkeypatch):
    model, trained, judged = small_gan(num_classes, k=3), [], []
    descend, judge = gan.MomentumSGD.descend, gan.GAN.judge
    both = {"G": model.generator, "D": model.discriminator}

    def spied_descend(self, tape, loss):
        before = {name: network.get_weights() for name, network in both.items()}
        descend(self, tape, loss)
        for name, network in both.items():
            if any(
                (a != b).any() for a, b in zip(before[name], network.get_weights(), strict=True)
            ):
                trained.append(name)

    def spied_judge(self, pixels, classes):
        judged.append((np.array(pixels), *map(np.array, classes)))
        return judge(self, pixels, classes)

    monkeypatch.setattr(gan.MomentumSGD, "descend", spied_descend)
    monkeypatch.setattr(gan.GAN, "judge", spied_judge)
    images = random_images()
    classes = [tf.one_hot(images.labels, num_classes)] if num_classes else []
    model.train_step((tf.constant(images.train), *map(tf.constant, classes)))
    assert trained == ["D", "D", "D", "G"]
    # D sees each image once, each time next to new ones of the same classes.
    real, fake = judged[0:6:2], [*judged[1:6:2], judged[6]]
    for place, given in enumerate([images.train, *classes]):
        np.testing.assert_array_equal(np.concatenate([r[place] for r in real]), given)
    for number, drawn in enumerate(fake):
        assert not any((drawn[0] == other[0]).any() for other in fake[number + 1 :])
        for of_fake, of_real in zip(drawn[1:], real[min(number, 2)][1:], strict=True):
            np.testing.assert_array_equal(of_fake, of_real)


def test_a_seed_determines_training_and_samples():
    images = random_images()
    first, again, other = (
        gan.train(images, steps=3, width=25, conditional=True, seed=seed).sample(
            6, images.labels[:6], 7
        )
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_too_few_steps(monkeypatch):
    monkeypatch.setattr(gan, "EPOCHS", 10)
    with pytest.raises(igpt_keras.InputError, match="steps must be at least 10, got 9"):
        gan.train(random_images(), steps=9, width=25)


def test_classes_reach_both_networks():
    model = small_gan(CLASSES)
    drawn = [model.sample(2, np.full(2, label), seed=5) for label in (0, 1, 1)]
    assert (drawn[0] != drawn[1]).all()
    np.testing.assert_array_equal(drawn[1], drawn[2])
    logits = [
        model.discriminator([tf.constant(drawn[0]), tf.one_hot([label] * 2, CLASSES)])
        for label in (0, 1)
    ]
    assert (np.array(logits[0]) != np.array(logits[1])).all()


def test_the_nearest_image():
    images = np.array([[0.0, 0], [1, 0], [1, 1]])
    found = gan.nearest(np.array([[0.9, 0.2], [0.1, 0.1]]), images)
    np.testing.assert_array_equal(found, images[[1, 0]])


@pytest.mark.slow
def test_the_whole_comparison(tmp_path):
    levels = np.repeat(np.arange(17)[:, None] / 8 - 1, 3, axis=1)
    config = igpt_keras.ImageGPTConfig(8, 17, hidden_dim=16, num_layers=1, num_heads=1)
    model = igpt_keras.ImageGPT(config, tokenizer=igpt_keras.ColorPalette(levels))
    model.save_to_preset(tmp_path / "model")
    script = [sys.executable, str(FOLDER / "gan.py"), "--model", "model", "--output", "gan"]
    result = subprocess.run(
        [*script, "--steps", "600", "--k", "2", "--num-samples", "500"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert result.returncode == 0, result.stderr
    found = re.findall(
        r"^\| (.+?) \| ([\d,]*) \| [\d.]* \| (-?[\d.]+) ±", result.stdout, re.MULTILINE
    )
    assert [number for _, number, _ in found] == ["500", "300", "300", *["500"] * 4, ""]
    few = float(found.pop(1)[2])
    values = {name: float(value) for name, _, value in found}
    assert values["training images"] == pytest.approx(22, abs=2)
    assert few < values["training images"]
    assert values["k-means centers"] == pytest.approx(27, abs=2)
    assert values["uniform noise"] == pytest.approx(-40, abs=2)
    for name in ("GAN", "conditional GAN"):
        assert values["uniform noise"] < values[name] < values["training images"]
    # Its head starts with zeros, which makes all 17 levels equally likely.
    assert values["Image GPT, exact"] == pytest.approx(64 * np.log(16 / 17), abs=0.1)
    assert Image.open(tmp_path / "gan" / "samples.png").width > 10 * 64
