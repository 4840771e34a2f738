"""Checks of what models are given, and images to tokens."""

import math
from functools import partial
from typing import Any

import keras
import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.models.graph_checks import require_below
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.tokenizers.base import tokenizer_of

BATCH_HINTS = {
    "array": "a single one becomes a batch by [None]",
    "dataset": "call .batch(batch_size) on the dataset",
}


def to_tokens(model: Any, inputs: Any) -> Any:
    """Returns inputs of a model with images replaced by their tokens, after checking both.

    Arrays and tensors are tokenized at once, a `tf.data.Dataset` in its pipeline.

    Args:
        model: Has a `config`, and a `tokenizer` if it is given images.
        inputs: Images uint8 [B, R, R, 3]; tokens, integers [B, n]; `{"tokens": tokens,
            "masked": mask}`; or a `tf.data.Dataset` of batches of these, or of tuples that
            begin with one. Anything else is returned as it is, for Keras to judge.

    Raises:
        InputError: A shape, dtype, key or token does not fit the model, or the model has no
            tokenizer for the images.
    """
    if is_pipeline(inputs):
        return _dataset_to_tokens(model, inputs)
    if isinstance(inputs, list | tuple):
        raise InputError(
            f"inputs must be an array or a tensor, got a {type(inputs).__name__}; "
            "np.asarray(inputs) makes an array, and labels are an argument of their own"
        )
    if isinstance(inputs, dict):
        _check_keys(inputs)
        _check_tokens(inputs["tokens"], model.config)
    elif _is_images(inputs):
        _check_images(inputs, model.config)
        tokenizer = tokenizer_of(model)
        if keras.backend.backend() == "tensorflow" and keras.ops.is_tensor(inputs):
            return tokenizer.tokenize_in_graph(inputs)
        return tokenizer.tokenize(np.asarray(inputs))
    else:
        _check_tokens(inputs, model.config)
    return inputs


def is_pipeline(inputs: Any) -> bool:
    """Returns whether `inputs` is a `tf.data.Dataset`."""
    return hasattr(inputs, "element_spec") and hasattr(inputs, "map")


def require_known_tokens(tokens: Any, config: ImageGPTConfig) -> Any:
    """Returns the inputs of a model; a graph of them fails at tokens outside its vocabulary.

    XLA drops the check. There, and on other backends than TensorFlow, `TokenEmbedding` makes
    NaNs of such tokens.

    Args:
        tokens: What `to_tokens` returned, other than a dataset.
        config: The sizes.
    """
    if isinstance(tokens, dict):
        return {**tokens, "tokens": require_known_tokens(tokens["tokens"], config)}
    if keras.backend.backend() != "tensorflow" or not keras.ops.is_tensor(tokens):
        return tokens
    if hasattr(tokens, "numpy"):  # Eager tensors were checked at once.
        return tokens
    return require_below(tokens, config.vocabulary_size, _token_range(config))


def _token_range(config):
    size = config.vocabulary_size
    return f"tokens must lie in 0…{size - 1} (vocabulary_size={size})"


def _dataset_to_tokens(model, dataset):
    spec = dataset.element_spec
    first = spec[0] if isinstance(spec, tuple) and spec else spec
    _check_elements(model, spec, first)
    if dataset.cardinality() == 0:
        raise InputError("the dataset must hold at least one batch of images, got none")
    if isinstance(first, dict):
        _check_keys(first)
        _check_tokens(first["tokens"], model.config, "dataset")
    elif _is_images(first):
        _check_images(first, model.config, "dataset")
        return _map_inputs(dataset, partial(_tokenize_batch, tokenizer_of(model)), parallel=True)
    else:
        _check_tokens(first, model.config, "dataset")
    return _map_inputs(dataset, partial(require_known_tokens, config=model.config))


def _check_elements(model, spec, first):
    """Raises `InputError` unless a pipeline yields one to three dense tensors of known rank."""
    import tensorflow as tf

    parts = list(first.values()) if isinstance(first, dict) else [first]
    if isinstance(first, dict) and "tokens" not in first:
        got = f"a dictionary with the keys {', '.join(map(repr, sorted(first)))}"
    elif isinstance(spec, tuple) and not 1 <= len(spec) <= 3:
        got = f"tuples of {len(spec)}"
    elif not all(isinstance(part, tf.TensorSpec) for part in parts):
        got = str(first)
    elif any(part.shape.rank is None for part in parts):
        got = "tensors of unknown shape, which tf.ensure_shape gives in .map"
    else:
        return
    size, length = model.config.image_size, model.config.sequence_length
    raise InputError(
        f"a dataset must yield batches of images uint8 [batch, {size}, {size}, 3] or tokens "
        f"int32 [batch, {length}], alone or as (images, labels), which .map makes; got {got}"
    )


def _map_inputs(dataset, function, parallel=False):
    import tensorflow as tf

    def apply(inputs, *rest):
        inputs = function(inputs)
        return (inputs, *rest) if isinstance(dataset.element_spec, tuple) else inputs

    return dataset.map(apply, num_parallel_calls=tf.data.AUTOTUNE if parallel else None)


def _tokenize_batch(tokenizer, images):
    import tensorflow as tf

    # Image by image: a palette compares each pixel with every color.
    tokens = tf.map_fn(
        lambda image: tokenizer.tokenize_in_graph(image[None])[0],
        images,
        fn_output_signature=tf.int32,
    )
    return tf.ensure_shape(tokens, [images.shape[0], math.prod(tokenizer.grid)])


def _shape(values: Any) -> list[int | None]:
    return list(values.shape) if hasattr(values, "shape") else []


def _is_images(inputs: Any) -> bool:
    shape = _shape(inputs)
    return len(shape) == 4 or (len(shape) == 3 and shape[-1] == 3)


def _check_images(images, config: ImageGPTConfig, kind: str = "array") -> None:
    size, shape = config.image_size, _shape(images)
    if len(shape) != 4 or any(
        actual not in (wanted, None)
        for actual, wanted in zip(shape[1:], (size, size, 3), strict=True)
    ):
        hint = f"resize them: igpt_keras.data.augmentation.resize_area(images, {size}, {size})"
        if len(shape) == 3:
            hint = BATCH_HINTS[kind]
        elif shape[-1] not in (3, None):
            hint = "images have 3 channels: np.repeat(images, 3, axis=-1) makes them of one"
        raise InputError(
            f"images must have shape [batch, {size}, {size}, 3] (image_size={size}), "
            f"got {shape}; {hint}"
        )
    dtype = keras.backend.standardize_dtype(images.dtype)
    if dtype != "uint8":
        raise InputError(
            f"images must be uint8 with values 0…255, got {dtype}; "
            'images with values 0…1 become it by np.rint(255 * images).astype("uint8")'
        )


def _check_keys(inputs: dict) -> None:
    if "tokens" not in inputs or not set(inputs) <= {"tokens", "masked"}:
        raise InputError(
            f'inputs must have the keys "tokens" and, for BERT, "masked"; got {sorted(inputs)}'
        )
    shape = tuple(_shape(inputs["tokens"]))
    masked = tuple(_shape(inputs.get("masked", inputs["tokens"])))
    if masked != shape:
        raise InputError(f"masked must have the shape of tokens, {shape}, got {masked}")


def _check_tokens(tokens, config: ImageGPTConfig, kind: str = "array") -> None:
    if not hasattr(tokens, "shape") or not hasattr(tokens, "dtype"):
        return
    length, shape = config.sequence_length, _shape(tokens)
    if len(shape) != 2 or shape[1] not in (length, None):
        hint = f"; {BATCH_HINTS[kind]}" if shape == [length] else ""
        raise InputError(
            f"tokens must have shape [batch, {length}] (image_size={config.image_size}), "
            f"got {shape}{hint}"
        )
    dtype = keras.backend.standardize_dtype(tokens.dtype)
    if "int" not in dtype:
        raise InputError(f"tokens must be integers, got {dtype}")
    # Of TensorFlow's tensors, the eager ones have values.
    known = isinstance(tokens, np.ndarray) or hasattr(tokens, "numpy")
    values = np.asarray(tokens) if known else np.zeros(0)
    if values.size:
        low, high = values.min(), values.max()
        if low < 0 or high >= config.vocabulary_size:
            raise InputError(f"{_token_range(config)}, got {low}…{high}")
