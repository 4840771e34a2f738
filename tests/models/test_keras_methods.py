"""Keras' methods: weights of images, empty data, wrong elements, precision, export."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import ImageGPT, ImageGPTClassifier, ImageGPTConfig, InputError
from igpt_keras.training.strategies import make_strategy

LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)
WEIGHTS = np.array([0, 2, 1, 0.5, 3, 1e-3], np.float32)


def compiled(model, **settings):
    model.compile(keras.optimizers.SGD(0.1), **settings)
    return model


def batches_of(x, size=4):
    """Images that Keras neither inspects nor copies before its graph runs."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return math.ceil(len(x) / size)

        def __getitem__(self, index):
            return (x[index * size : (index + 1) * size],)

    return Batches()


@pytest.mark.parametrize("classes", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_the_loss_is_the_sum_of_weighted_losses_by_the_number_of_images(
    config, tokens, randomized, classes
):
    model = ImageGPT(config) if classes is None else ImageGPTClassifier(config, classes)
    compiled(randomized(model))
    labels = None if classes is None else LABELS
    each = [
        model.evaluate(tokens[[i]], labels if labels is None else labels[[i]], verbose=0)[0]
        for i in range(6)
    ]
    expected = (WEIGHTS * each).sum() / 6
    # Four images and two: an unweighted mean over batches would differ.
    settings = {"sample_weight": WEIGHTS, "batch_size": 4, "verbose": 0, "return_dict": True}
    result = model.evaluate(tokens, labels, **settings)
    assert result["loss"] == pytest.approx(expected, rel=1e-5)
    plain = model.evaluate(tokens, labels, verbose=0, return_dict=True)
    assert result["bits_per_pixel"] == pytest.approx(plain["bits_per_pixel"], rel=1e-5)
    data = tf.data.Dataset.from_tensor_slices((tokens, LABELS, WEIGHTS)).batch(4)
    assert model.evaluate(data, verbose=0)[0] == pytest.approx(expected, rel=1e-5)


def step(config, randomized, tokens, labels, *, micro_batches=1, **weights):
    """The weights after one step of gradient descent."""
    model = randomized(ImageGPTClassifier(config, 3))
    compiled(model, micro_batches=micro_batches)
    model.fit(tokens, labels, batch_size=len(tokens), verbose=0, **weights)
    return model.get_weights()


def assert_close(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("micro_batches", [1, pytest.param(2, marks=pytest.mark.slow), 4])
def test_weights_of_0_and_2_remove_and_repeat_images(config, tokens, randomized, micro_batches):
    order = [1, 2, 2, 3, 4, 5]  # Without the first, with the third twice.
    expected = step(config, randomized, tokens[order], LABELS[order])
    weights = np.array([0, 1, 2, 1, 1, 1])
    weighted = step(
        config, randomized, tokens, LABELS, sample_weight=weights, micro_batches=micro_batches
    )
    assert_close(weighted, expected)


def test_class_weights_are_the_weights_of_the_images_of_a_class(config, tokens, randomized):
    class_weight = {0: 0.5, 1: 3.0, 2: 0.0}
    expected = step(
        config,
        randomized,
        tokens,
        LABELS,
        sample_weight=np.array([class_weight[label] for label in LABELS]),
    )
    assert_close(step(config, randomized, tokens, LABELS, class_weight=class_weight), expected)
    model = compiled(ImageGPT(config))
    with pytest.raises(InputError, match="class_weight needs labels, got none"):
        model.fit(tokens, class_weight=class_weight)


@pytest.mark.slow
def test_replicas_train_with_weights_as_one_device(config, tokens, randomized):
    # Batches of five for two replicas: their shares of a batch differ.
    strategy = make_strategy("mirrored")
    assert strategy.num_replicas_in_sync == 2
    ends = []
    for scope in (strategy.scope, tf.distribute.get_strategy().scope):
        with scope():
            model = compiled(randomized(ImageGPT(config)), micro_batches=2)
        settings = {"sample_weight": WEIGHTS, "batch_size": 5, "verbose": 0}
        history = model.fit(tokens, shuffle=False, epochs=2, **settings).history
        measured = model.evaluate(tokens, **settings)
        ends.append([*model.get_weights(), history["loss"], measured])
    assert_close(*ends)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(5), r"shape \[6\], one weight for each image, got \[5\]"),
        (np.ones((6, 16)), r"got \[6, 16\]"),
        (np.array([1, 1, 1, 1, 1, np.nan]), "finite numbers, got NaN"),
        (np.array(list("abcdef")), "must hold numbers"),
    ],
)
def test_unusable_weights_are_named(config, tokens, weights, message):
    model = compiled(ImageGPT(config))
    for call in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(InputError, match=message):
            call(tokens, sample_weight=weights)
    with pytest.raises(InputError, match=message):
        model.fit(tokens, validation_data=(tokens, None, weights))


def test_data_without_images_have_no_loss(config, tokens):
    model = compiled(ImageGPT(config))
    images = tf.data.Dataset.from_tensor_slices(tokens)
    known = images.take(0).batch(2)
    for call in (model.fit, model.evaluate, model.predict):
        for data in (tokens[:0], known):
            with pytest.raises(InputError, match="at least one"):
                call(data, verbose=0)
    unknown = images.filter(lambda image: False).batch(2)
    for call in (model.fit, model.evaluate):
        with pytest.raises(InputError, match="at least one batch of images, got none"):
            call(unknown, verbose=0)
    for data in ((tokens[:0], None), known, unknown):
        with pytest.raises(InputError, match="at least one"):
            model.fit(tokens, validation_data=data, verbose=0)
    for call in (model.train_on_batch, model.test_on_batch):
        with pytest.raises(InputError, match=r"at least one image, got shape \[0, 16\]"):
            call(tokens[:0])


@pytest.mark.parametrize("wrong", [8, pytest.param(-1, marks=pytest.mark.slow)])
def test_unknown_tokens_of_pipelines_and_tensors_are_named(config, tokens, wrong):
    tokens[4, 15] = wrong
    message = rf"tokens must lie in 0…7 \(vocabulary_size=8\), got {tokens.min()}…{tokens.max()}$"
    for settings in ({}, {"micro_batches": 2}, {"run_eagerly": True}):
        model = compiled(ImageGPT(config), **settings)
        for data in (
            tf.constant(tokens),
            tf.data.Dataset.from_tensors(tokens),
            batches_of(tokens, 6),
        ):
            with pytest.raises(InputError, match=message):
                model.fit(data, verbose=0)
    for call in (model.evaluate, model.predict):
        with pytest.raises(InputError, match=message):
            call(tf.data.Dataset.from_tensors(tokens), verbose=0)
    with pytest.raises(InputError, match=message):
        model(tf.constant(tokens))


@pytest.mark.parametrize("objective", ["ar", pytest.param("bert", marks=pytest.mark.slow)])
@pytest.mark.parametrize("wrong", [8, pytest.param(-1, marks=pytest.mark.slow)])
def test_where_xla_drops_checks_unknown_tokens_are_nan(
    config, tokens, randomized, objective, wrong
):
    tokens[4, 15] = wrong
    model = compiled(randomized(ImageGPT(config, objective)), jit_compile=True)
    result = model.predict(batches_of(tokens), verbose=0)
    np.testing.assert_array_equal(np.isnan(result).any(axis=(1, 2)), np.arange(6) == 4)
    assert math.isnan(model.evaluate(batches_of(tokens), verbose=0)[0])


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (lambda x: {"image": x}, "a dictionary with the keys 'image'"),
        (lambda x: ((x, x), x), r"alone or as \(images, labels\)"),
        (lambda x: (x, x, x, x), "tuples of 4"),
        (lambda x: tf.RaggedTensor.from_tensor(x), "RaggedTensorSpec"),
        (lambda x: tf.py_function(lambda y: y, [x], tf.int32), "unknown shape"),
    ],
)
def test_elements_that_models_cannot_take_are_named(config, tokens, element, message):
    model = compiled(ImageGPT(config))
    dataset = tf.data.Dataset.from_tensors(tokens).map(element)
    for call in (model.fit, model.evaluate, model.predict):
        with pytest.raises(InputError, match=message):
            call(dataset)


def test_a_generative_model_needs_no_labels_and_takes_data_with_them(config, tokens, randomized):
    ends = []
    for data in (tokens, (tokens, LABELS)):
        model = compiled(randomized(ImageGPT(config)))
        dataset = tf.data.Dataset.from_tensor_slices(data).batch(3)
        ends.append([*model.get_weights(), *model.fit(dataset, verbose=0).history.values()])
    assert_close(*ends)
    with pytest.raises(InputError, match=r"got list; np\.asarray"):
        model.fit(tokens.tolist())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "got none; pass them as y"),
        (LABELS + 1, r"0…2 \(num_classes=3\), got 1…3"),
        (LABELS - 1, "got -1…1"),
        (LABELS + 0.5, "must be integers"),
        (np.eye(3)[LABELS], r"got \[(6|None), 3\]; .*argmax\(axis=1\)"),
        (LABELS.astype(str), "np.unique"),
    ],
)
def test_unusable_labels_are_named(config, tokens, labels, message):
    model = compiled(ImageGPTClassifier(config, 3))
    for call in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(InputError, match=message):
            call(tokens, labels)
    data = tokens if labels is None else (tokens, labels)
    if labels is not None and labels.dtype.kind == "f" and labels.ndim == 1:
        return  # A pipeline checks the range only.
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(6)
    with pytest.raises(InputError, match=message):
        model.fit(dataset, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_models_train_in_any_precision(config, randomized, dtype):
    starts = np.arange(8)[:, None]
    tokens = ((starts + np.arange(16)) % 8).astype(np.int32)
    model = ImageGPT(config, dtype=dtype)
    model.compile(keras.optimizers.SGD(0.5), micro_batches=2)
    history = model.fit(tokens, epochs=30, batch_size=8, verbose=0).history
    assert np.isfinite(history["gradient_norm"]).all()
    assert history["loss"][-1] < history["loss"][0] - 0.3


@pytest.mark.slow
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("classes", [None, 3])
def test_keras_and_tensorflow_export_tokens_to_logits(
    config, tokens, randomized, tmp_path, fitted, classes
):
    model = ImageGPT(config) if classes is None else ImageGPTClassifier(config, classes)
    compiled(randomized(model))
    if fitted:
        model.fit(tokens, LABELS, verbose=0)
    model.export(tmp_path / "exported", verbose=False)
    tf.saved_model.save(model, tmp_path / "saved")
    expected = np.asarray(model(tokens[:5]))
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(tokens[:5]), expected, atol=1e-5)
    saved = tf.saved_model.load(tmp_path / "saved")
    (logits,) = saved.signatures["serving_default"](tf.constant(tokens[:5])).values()
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("classes", [None, 3])
def test_checkpoints_of_tensorflow_hold_every_weight(config, tokens, randomized, tmp_path, classes):
    def new(seed):
        model = ImageGPT(config) if classes is None else ImageGPTClassifier(config, classes)
        return randomized(model, seed)

    model, other = new(1), new(2)
    path = tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
    tf.train.Checkpoint(model=other).restore(path)
    np.testing.assert_array_equal(
        other.predict(tokens, verbose=0), model.predict(tokens, verbose=0)
    )
    for weight, expected in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_numbers_and_names_of_numpy_are_those_of_python(config):
    fields = config.to_dict().items()
    sizes = {name: np.int64(value) for name, value in fields if type(value) is int}
    same = ImageGPTConfig(**sizes, use_bias=np.bool_(False), grid=np.array([4, 4]))
    assert json.dumps(same.to_dict()) == json.dumps({**config.to_dict(), "grid": [4, 4]})
    names = np.array(["cat", "dog", "owl"])
    classifier = ImageGPTClassifier(
        config,
        np.int64(3),
        class_names=names,
        layer=np.int64(1),
        generative_weight=np.float32(0.5),
    )
    classifier.compile(micro_batches=np.int64(2))
    assert classifier.class_names == ["cat", "dog", "owl"]
    json.dumps({**classifier.get_config(), "micro_batches": classifier.micro_batches})


@pytest.mark.slow
def test_arguments_of_fit_do_what_they_do_in_keras(config, tokens):
    """Epochs, batches and validations of `fit`, by callbacks, as for a plain Keras model."""

    class Calls(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.calls = []

        def on_epoch_begin(self, epoch, logs=None):
            self.calls.append(f"epoch {epoch}")

        def on_train_batch_end(self, batch, logs=None):
            self.calls.append(f"batch {batch}")

        def on_test_batch_end(self, batch, logs=None):
            self.calls.append(f"test {batch}")

    plain = keras.Sequential([keras.layers.Embedding(8, 4), keras.layers.Flatten()])
    plain.add(keras.layers.Dense(3))
    plain.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    classifier = compiled(ImageGPTClassifier(config, 3))
    for settings in (
        {"validation_split": 0.34, "batch_size": 1},
        {"epochs": 4, "initial_epoch": 2, "batch_size": 4, "shuffle": False},
        {"epochs": 3, "batch_size": 2, "steps_per_epoch": 2},
        {
            "epochs": 4,
            "validation_data": (tokens, LABELS),
            "validation_freq": 2,
            "validation_batch_size": 2,
            "validation_steps": 2,
        },
    ):
        calls = []
        for model in (plain, classifier):
            calls.append(Calls())
            model.fit(tokens, LABELS, callbacks=[calls[-1]], verbose=0, **settings)
        assert calls[0].calls == calls[1].calls, settings
