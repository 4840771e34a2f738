"""Models conditioned on classes: start vectors, labels in training, and labels that are dropped."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTClassifier, InputError
from igpt_keras.network.losses import autoregressive_nll
from igpt_keras.training.strategies import make_strategy
from tests.models.batches import LABELS, as_array

TOKENS = np.random.default_rng(0).integers(0, 8, (6, 16)).astype(np.int32)
NUM_CLASSES = 4  # One more than there are in LABELS.


@pytest.fixture(scope="module")
def conditional(config):
    return dataclasses.replace(config, num_classes=NUM_CLASSES)


@pytest.fixture(scope="module")
def model(conditional, randomized):
    return randomized(ImageGPT(conditional, label_dropout=0.5))


@pytest.fixture(scope="module")
def of_class(config, model):
    """Makes a model without classes that begins with the start vector of a class, or of none."""

    def make(label):
        replaced = ImageGPT(config)
        weights = [as_array(w) for w in model.backbone.weights_without_classes()]
        replaced.backbone.set_weights(weights)
        replaced.token_head.set_weights(model.token_head.get_weights())
        if label is not None:
            row = as_array(model.backbone.embedding.class_embedding)[label]
            replaced.backbone.embedding.start_vector.assign(row)
        return replaced

    return make


@pytest.fixture(scope="module")
def logits(of_class):
    """Logits [K + 1, B, n, V] of models without classes; the last is that of no class."""
    return np.stack([as_array(of_class(label)(TOKENS)) for label in (*range(NUM_CLASSES), None)])


@pytest.fixture(scope="module")
def nll(logits):
    """Returns the mean loss of the images with such labels, -1 for no class."""
    losses = np.stack([as_array(autoregressive_nll(TOKENS, of_one)) for of_one in logits])
    return lambda labels: losses[labels, np.arange(6)].mean()


def test_logits_are_those_of_a_model_that_begins_with_the_vector_of_the_class(model, logits):
    given = as_array(model({"tokens": TOKENS, "labels": LABELS}))
    np.testing.assert_allclose(given, logits[LABELS, np.arange(6)], atol=1e-5)
    np.testing.assert_allclose(as_array(model(TOKENS)), logits[-1], atol=1e-5)
    dropped = np.array([1, 0, 1, 0, 1, 0], bool)
    seen = as_array(model({"tokens": TOKENS, "labels": LABELS, "dropped": dropped}))
    expected = np.where(dropped[:, None, None], logits[-1], given)
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_what_a_model_without_classes_writes_does_not_change(config, conditional):
    assert "num_classes" not in config.to_dict()
    assert not {"label_dropout", "class_names"} & set(ImageGPT(config).get_config())
    weights = len(ImageGPT(config).weights)
    assert len(ImageGPT(conditional).weights) == weights + 1
    assert igpt_keras.ImageGPTConfig.from_dict(json.loads(json.dumps(conditional.to_dict()))) == (
        conditional
    )
    assert ImageGPT(conditional).count_params() == conditional.parameter_count()
    assert conditional.parameter_count() == config.parameter_count() + 4 * 16


def test_training_sees_the_labels_that_the_draw_of_its_step_keeps(model, nll, conditional):
    trained = ImageGPT(conditional, label_dropout=0.5)
    trained.set_weights(model.get_weights())
    trained.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    seed = as_array(trained.label_seed.state)
    losses = []
    for step in range(3):
        bits = tf.random.stateless_uniform([6], seed + [0, step], None, None, tf.uint32, "philox")
        losses.append(nll(np.where(bits.numpy() < 2**31, -1, LABELS)))
        trained.reset_metrics()
        result = trained.train_on_batch(TOKENS, LABELS, return_dict=True)
        assert result["loss"] == pytest.approx(losses[-1], abs=1e-5)
    assert len({round(float(loss), 4) for loss in losses}) == 3


def test_only_vectors_of_classes_that_are_seen_change(conditional, randomized):
    model = randomized(ImageGPT(conditional, label_dropout=0))
    model.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    embedding = model.backbone.embedding
    vectors = embedding.start_vector, embedding.class_embedding
    before = [as_array(v) for v in vectors]
    model.fit(TOKENS, LABELS, verbose=0)
    start, of_classes = (
        np.abs(as_array(v) - b).max(axis=-1) for v, b in zip(vectors, before, strict=True)
    )
    assert start == 0
    np.testing.assert_array_equal(of_classes > 0, [True, True, True, False])


def test_validation_sees_every_label(model, nll):
    model.compile(run_eagerly=True)
    expected = nll(LABELS)
    result = model.evaluate(TOKENS, LABELS, batch_size=4, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(expected, abs=1e-5)
    assert result["bits_per_pixel"] == pytest.approx(expected / math.log(2), abs=1e-5)
    pairs = tf.data.Dataset.from_tensor_slices((TOKENS, LABELS)).batch(4)
    assert model.evaluate(pairs, verbose=0)[0] == pytest.approx(expected, abs=1e-5)
    inputs = {"tokens": TOKENS, "labels": LABELS}
    assert model.evaluate(inputs, verbose=0)[0] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(model.predict(inputs, verbose=0), as_array(model(inputs)), atol=1e-5)
    np.testing.assert_allclose(model.predict(TOKENS, verbose=0), as_array(model(TOKENS)), atol=1e-5)


def trained(conditional, randomized, strategy, fit, **settings):
    with strategy.scope():
        keras.utils.set_random_seed(3)
        model = randomized(ImageGPT(conditional, label_dropout=0.5))
        model.compile(keras.optimizers.SGD(0.3), **settings)
    fit(model)
    return np.concatenate([w.ravel() for w in model.get_weights()])


@pytest.mark.slow
def test_draws_do_not_depend_on_replicas_micro_batches_and_the_kind_of_data(
    conditional, randomized
):
    tokens, labels = np.tile(TOKENS, (2, 1))[:7], np.arange(7) % 3

    def on_arrays(model):
        model.fit(tokens, labels, batch_size=7, epochs=2, shuffle=False, verbose=0)

    def on_pairs(model):
        model.fit(tf.data.Dataset.from_tensors((tokens, labels)), epochs=2, verbose=0)

    one = trained(conditional, randomized, tf.distribute.get_strategy(), on_arrays)
    for strategy, fit, settings in (
        (make_strategy("mirrored"), on_arrays, {}),
        (tf.distribute.get_strategy(), on_pairs, {"micro_batches": 3, "remat": True}),
    ):
        other = trained(conditional, randomized, strategy, fit, **settings)
        np.testing.assert_allclose(other, one, atol=1e-5)


def test_files_keep_the_classes(model, palette, conditional, tmp_path):
    inputs = {"tokens": TOKENS, "labels": LABELS}
    named = ImageGPT(conditional, tokenizer=palette, label_dropout=0.2, class_names=list("abcd"))
    named.set_weights(model.get_weights())
    named.save_to_preset(tmp_path / "model")
    named.save(tmp_path / "model.keras")
    for loaded in (igpt_keras.load(tmp_path / "model"), igpt_keras.load(tmp_path / "model.keras")):
        assert loaded.config == conditional
        assert (loaded.label_dropout, loaded.class_names) == (0.2, list("abcd"))
        np.testing.assert_array_equal(as_array(loaded(inputs)), as_array(named(inputs)))


def test_a_model_that_is_given_classes_begins_as_it_was(of_class, palette):
    before = of_class(None)
    before.tokenizer = palette
    after = before.with_classes(3, class_names=["a", "b", "c"], label_dropout=0.2)
    assert (after.config.num_classes, after.class_names) == (3, ["a", "b", "c"])
    logits = as_array(before(TOKENS))
    given = after({"tokens": TOKENS, "labels": LABELS})
    np.testing.assert_array_equal(as_array(after(TOKENS)), logits)
    np.testing.assert_array_equal(as_array(given), logits)
    assert after.tokenizer.fingerprint() == palette.fingerprint()
    with pytest.raises(InputError, match="the model has classes already, 3"):
        after.with_classes(3)


def test_a_classifier_and_features_are_those_without_a_class(model, of_class):
    without = of_class(None)
    np.testing.assert_allclose(model.features(TOKENS, 1), without.features(TOKENS, 1), atol=1e-5)
    classifiers = [ImageGPTClassifier.from_preset(m, num_classes=3) for m in (model, without)]
    for one, other in zip(*(c.get_weights() for c in classifiers), strict=True):
        if one.shape != (16, 3):  # a head that was drawn
            np.testing.assert_array_equal(one, other)


def test_unusable_classes_are_named(config, conditional, model):
    with pytest.raises(InputError, match="num_classes must be a positive integer, got 0"):
        dataclasses.replace(config, num_classes=0)
    with pytest.raises(InputError, match="num_classes must be at least 2, or None, got 1"):
        dataclasses.replace(config, num_classes=1)
    with pytest.raises(InputError, match='num_classes=4 needs objective="ar"'):
        ImageGPT(conditional, "bert")
    with pytest.raises(InputError, match="config.num_classes must be None"):
        ImageGPTClassifier(conditional, 4)
    with pytest.raises(InputError, match="class_names must hold num_classes=4 names, got 1"):
        ImageGPT(conditional, class_names=["cat"])
    with pytest.raises(InputError, match="class_names needs config.num_classes, which is None"):
        ImageGPT(config, class_names=["cat"])
    with pytest.raises(InputError, match="label_dropout must lie in 0…1, 1 excluded, got 1"):
        ImageGPT(conditional, label_dropout=1)
    with pytest.raises(InputError, match="keys .*masked.*; got .*labels"):
        ImageGPT(config)({"tokens": TOKENS, "labels": LABELS})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "labels must be integers in 0…3 .*, got none; pass them as y"),
        (LABELS - 1, r"labels must be integers in 0…3 \(num_classes=4\), got -1…1"),
        (LABELS + 2, "got 2…4"),
        (LABELS[:5], r"labels must have one value for each image, \[6\], got \[5\]"),
        (np.eye(4)[LABELS], "one-hot labels become it by .argmax"),
        (LABELS.astype(str), "numbers names"),
    ],
)
def test_unusable_labels_are_named(model, labels, message):
    model.compile()
    for method in (model.fit, model.evaluate, model.train_on_batch):
        with pytest.raises(InputError, match=message):
            method(TOKENS, labels)
    with pytest.raises(InputError, match=message):
        model.fit(TOKENS, LABELS, validation_data=(TOKENS, labels), verbose=0)
    if labels is not None:
        with pytest.raises(InputError, match=message):
            model({"tokens": TOKENS, "labels": labels})


def test_labels_of_pipelines_and_graphs_are_checked(model):
    model.compile(run_eagerly=True)
    with pytest.raises(InputError, match="got none; pass them as y, or in a dataset"):
        model.fit(tf.data.Dataset.from_tensors(TOKENS), verbose=0)
    wrong = tf.data.Dataset.from_tensors((TOKENS, LABELS + 2))
    with pytest.raises(InputError, match=r"labels must be .*\(num_classes=4\), got 2…4"):
        model.fit(wrong, verbose=0)
    embedding = model.backbone.embedding
    compiled = tf.function(lambda labels: embedding(TOKENS, labels=labels), jit_compile=True)
    vectors = compiled(tf.constant([0, 1, 2, -1, 4, -2])).numpy()
    np.testing.assert_array_equal(np.isnan(vectors[:, 0]).all(axis=1), [0, 0, 0, 0, 1, 1])
