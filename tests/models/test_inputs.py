"""Images, tokens and pipelines of both as inputs of the models."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTClassifier, InputError
from igpt_keras.data import ArraySplit, DataSet, LabeledImages, WeightedSource
from igpt_keras.models.inputs import is_pipeline, to_tokens

LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)


@pytest.fixture
def images():
    return np.random.default_rng(7).integers(0, 256, (6, 4, 4, 3)).astype(np.uint8)


@pytest.fixture
def model(config, palette, randomized):
    return randomized(ImageGPT(config, tokenizer=palette))


def trained(config, palette, inputs, *args, model_class=ImageGPT, **kwargs):
    """The weights and the history after training on `inputs`."""
    keras.utils.set_random_seed(3)
    settings = {"num_classes": 3} if model_class is ImageGPTClassifier else {}
    model = model_class(config, tokenizer=palette, **settings)
    model.compile(keras.optimizers.Adam(0.01))
    history = model.fit(inputs, *args, epochs=2, verbose=0, shuffle=False, **kwargs).history
    return [*model.get_weights(), *history.values()]


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_on_images_is_training_on_their_tokens(config, palette, images):
    tokens = palette.tokenize(images)
    validation = {"validation_data": (tokens[:2], None)}
    expected = trained(config, palette, tokens, batch_size=3, **validation)
    validation = {"validation_data": (images[:2], None)}
    assert_same(trained(config, palette, images, batch_size=3, **validation), expected)

    def from_pipelines(data):
        validation = {"validation_data": tf.data.Dataset.from_tensors(data[:2])}
        train = tf.data.Dataset.from_tensor_slices(data).batch(3)
        return trained(config, palette, train, **validation)

    assert_same(from_pipelines(images), from_pipelines(tokens))


@pytest.mark.slow
def test_a_classifier_learns_from_images_as_from_their_tokens(config, palette, images):
    settings = {"model_class": ImageGPTClassifier}
    tokens = palette.tokenize(images)
    expected = trained(config, palette, tokens, LABELS, batch_size=3, **settings)
    assert_same(trained(config, palette, images, LABELS, batch_size=3, **settings), expected)
    of_images, of_tokens = (
        tf.data.Dataset.from_tensor_slices((data, LABELS)).batch(3) for data in (images, tokens)
    )
    expected = trained(config, palette, of_tokens, **settings)
    assert_same(trained(config, palette, of_images, **settings), expected)


def test_calls_predict_evaluate_and_features_take_images(model, palette, images):
    tokens = palette.tokenize(images)
    model.compile()
    expected = np.asarray(model(tokens))
    for same in (images, tf.constant(images)):
        np.testing.assert_array_equal(model(same), expected)
    np.testing.assert_array_equal(
        model.predict(images, verbose=0), model.predict(tokens, verbose=0)
    )
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(4)
    np.testing.assert_array_equal(
        model.predict(dataset, verbose=0), model.predict(tokens, batch_size=4, verbose=0)
    )
    assert model.evaluate(images, verbose=0) == model.evaluate(tokens, verbose=0)
    np.testing.assert_array_equal(model.features(images, 1), model.features(tokens, 1))
    before = model.test_on_batch(tokens, return_dict=True)
    assert model.test_on_batch(images, return_dict=True) == before
    assert model.train_on_batch(images, return_dict=True)["loss"] == pytest.approx(before["loss"])


def test_features_do_not_depend_on_the_batch_size(model, images):
    at_once = model.features(images, 2)
    assert at_once.shape == (6, 16) and at_once.dtype == np.float32
    np.testing.assert_allclose(model.features(images, 2, batch_size=4), at_once, atol=1e-5)


def test_single_batches_train_and_measure_as_fit_and_evaluate(config, randomized, tokens):
    one, other = (randomized(ImageGPTClassifier(config, 3)) for _ in range(2))
    for model in (one, other):
        model.compile(keras.optimizers.SGD(0.1))
    logs = one.train_on_batch(tokens, LABELS, return_dict=True)
    history = other.fit(tokens, LABELS, batch_size=6, shuffle=False, verbose=0).history
    assert logs == pytest.approx({name: values[0] for name, values in history.items()}, rel=1e-5)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    measured = one.test_on_batch(tokens, LABELS, return_dict=True)
    expected = other.evaluate(tokens, LABELS, batch_size=6, verbose=0, return_dict=True)
    assert measured == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("call", ["__call__", "fit", "predict", "evaluate"])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 5, 5, 3), np.uint8), r"\[batch, 4, 4, 3\].*got \[2, 5, 5, 3\]; igpt"),
        (np.zeros((4, 4, 3), np.uint8), r"got \[4, 4, 3\]; a single one becomes a batch"),
        (np.zeros((2, 4, 4, 3), np.float32), r"uint8 with values 0…255, got float32"),
    ],
)
def test_unusable_images_are_named(model, call, images, message):
    model.compile()
    with pytest.raises(InputError, match=message):
        getattr(model, call)(images)
    with pytest.raises(InputError, match=message):
        model.features(images, 0)


def test_unusable_pipelines_are_named(model, images, tokens):
    model.compile()
    for data in (images, tokens):
        with pytest.raises(InputError, match=r"call \.batch\(batch_size\) on the dataset"):
            model.fit(tf.data.Dataset.from_tensor_slices(data))


def test_images_need_a_tokenizer(config, images):
    model = ImageGPT(config)
    with pytest.raises(InputError, match="tokenizer is missing"):
        model(images)


def batches(array, *labels):
    return tf.data.Dataset.from_tensor_slices((array, *labels) if labels else array).batch(4)


# What is made of images uint8 [6, 4, 4, 3], and the tokens of which images to expect.
MADE = {
    "0…255": lambda x: x.astype("float32"),
    "0…255 in integers": lambda x: x.astype("int64"),
    "0…255 in a tensor": lambda x: tf.constant(x, "float32"),
    "0…1": lambda x: x / 255.0,
    "-1…1": lambda x: x / 127.5 - 1,
    "fractions": lambda x: (x + 0.25).clip(0, 255),
    "a dataset": lambda x: batches(x.astype("float32")),
    "a dataset with labels": lambda x: batches(x.astype("float32"), LABELS),
    "enlarged": lambda x: x.repeat(2, axis=1).repeat(2, axis=2),
    "with margins": lambda x: np.pad(x, ((0, 0), (0, 0), (3, 3), (0, 0))),
    "an enlarged dataset": lambda x: batches(x.repeat(2, axis=1).repeat(2, axis=2)),
    "of several sizes": lambda x: [*x[:3], *x[3:].repeat(3, axis=1).repeat(3, axis=2)],
    "a list": list,
    "with transparency": lambda x: np.concatenate([x, x[..., :1]], axis=-1),
    "channels first": lambda x: x.transpose(0, 3, 1, 2),
    "flat": lambda x: x.reshape(6, -1),
}


@pytest.mark.parametrize("made", MADE)
def test_the_call_that_an_error_names_makes_it_right(model, images, made):
    given = MADE[made](images)
    with pytest.raises(InputError) as raised:
        to_tokens(model, given)
    names = ("images", "dataset", "inputs", "pixels")
    call = re.search(r"; (.*?) (converts|makes|resizes)", str(raised.value))[1]
    right = eval(
        call, {"np": np, "tf": tf, "igpt_keras": igpt_keras, **dict.fromkeys(names, given)}
    )
    tokens = to_tokens(model, right)
    if is_pipeline(tokens):
        parts = [part[0] if isinstance(part, tuple) else part for part in tokens]
        tokens = np.concatenate([part.numpy() for part in parts])
    np.testing.assert_array_equal(tokens, model.tokenizer.tokenize(images))


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (lambda x: x[..., 0].astype("int32") // 32, "tokens"),
        (lambda x: batches(x[..., 0].astype("int32") // 32), "dataset"),
        (lambda x: x[..., 0].reshape(6, 16) / 1.0 // 32, "tokens"),
        (lambda x: x[..., 0], "images"),
        (lambda x: x[..., :1], "images"),
    ],
)
def test_the_call_for_tokens_and_gray_images(model, images, made, names):
    given = made(images)
    with pytest.raises(InputError) as raised:
        to_tokens(model, given)
    call = re.search(r"; (.*?) (flattens|converts|makes)", str(raised.value))[1]
    right = eval(call, {"np": np, "tf": tf, names: given})
    tokens = to_tokens(model, right)
    tokens = np.concatenate(list(tokens)) if is_pipeline(tokens) else tokens
    if names == "images":
        expected = model.tokenizer.tokenize(np.stack([images[..., 0]] * 3, axis=-1))
    else:
        expected = images[..., 0].reshape(6, 16) // 32
    np.testing.assert_array_equal(tokens, expected)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda x: "photos", "got str; .*read_images"),
        (lambda x: ["a.png", "b.png"], "got list; .*read_images"),
        (lambda x: np.array(["a.png", "b.png"]), "read_images"),
        (lambda x: Image.fromarray(x[0]), r"got Image; .*read_image\(path, 4\)\[None\]"),
        (lambda x: LabeledImages(x, LABELS), r"got LabeledImages; pass its \.images"),
        (lambda x: ArraySplit("a", x), r"got ArraySplit; .*read_images\(split, image_size=4\)"),
        (
            lambda x: DataSet(
                ["a"], [WeightedSource(ArraySplit("a", x), 1, "none")], None, None, []
            ),
            r"got DataSet; .*read_images\(data\.train, image_size=4\)",
        ),
        (lambda x: None, "got NoneType; pass images or tokens as x"),
        (lambda x: x.astype(int) * 300, r"got int64; the values are \d+…\d{5}$"),
    ],
)
def test_what_holds_or_names_images_is_to_be_read(model, images, made, message):
    model.compile()
    for call in (model.fit, model.predict, model.evaluate):
        with pytest.raises(InputError, match=message):
            call(made(images))


def test_pipelines_of_keras_are_left_to_it(model, images):
    class DataSet(keras.utils.PyDataset):
        pass

    batches = DataSet()
    batches.images = images
    assert to_tokens(model, batches) is batches
