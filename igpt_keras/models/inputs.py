"""Checks of what models are given, and images to tokens."""

import math
from functools import partial
from typing import Any

import keras
import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.models.graph_checks import require_below
from igpt_keras.models.labels import check_label_spec, check_label_values, require_label_range
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.tokenizers.base import ImageTokenizer, tokenizer_of
from igpt_keras.tokenizers.image_hints import (
    channels_hint,
    in_pipeline,
    reading_hint,
    resize_hint,
    squares_hint,
    uint8_hint,
)


def bind(tokenizer: ImageTokenizer, config: ImageGPTConfig) -> ImageTokenizer:
    """Returns a tokenizer for the images of a model of these sizes.

    Raises:
        InputError: The tokenizer does not fit the model.
    """
    bound = tokenizer.bind(config.image_size)
    if bound.vocabulary_size != config.vocabulary_size:
        raise InputError(
            f"tokenizer must have vocabulary_size={config.vocabulary_size}, "
            f"got a {type(bound).__name__} with {bound.vocabulary_size}"
        )
    found, (rows, columns) = bound.grid, config.token_grid
    if found != (rows, columns):
        raise InputError(
            f"tokenizer must make {rows * columns} tokens of an image, {rows} × {columns}, "
            f"got a {type(bound).__name__} with {found[0]} × {found[1]}"
        )
    return bound


def to_tokens(model: Any, inputs: Any) -> Any:
    """Returns inputs of a model with images replaced by their tokens, after checking both.

    Arrays and tensors are tokenized at once, a `tf.data.Dataset` in its pipeline.

    Args:
        model: Has a `config`, and a `tokenizer` if it is given images.
        inputs: Images uint8 [B, R, R, 3]; tokens, integers [B, n]; `{"tokens": tokens,
            "masked": mask}`, or with `config.num_classes` `{"tokens": tokens, "labels": labels}`;
            or a `tf.data.Dataset` of batches of these, or of tuples that begin with one. Anything
            else is returned as it is, for Keras to judge.

    Raises:
        InputError: A shape, dtype, key or token does not fit the model, or the model has no
            tokenizer for the images.
    """
    if is_pipeline(inputs):
        return _dataset_to_tokens(model, inputs)
    _check_is_array(inputs, model.config)
    if isinstance(inputs, dict):
        _check_keys(inputs, model.config)
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
        checked = {**tokens, "tokens": require_known_tokens(tokens["tokens"], config)}
        if "labels" in tokens:
            num_classes: Any = config.num_classes
            checked["labels"] = require_label_range(tokens["labels"], num_classes)
        return checked
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
    labeled = isinstance(spec, tuple)
    if isinstance(first, dict):
        _check_keys(first, model.config)
        _check_tokens(first["tokens"], model.config, labeled)
    elif _is_images(first):
        _check_images(first, model.config, labeled)
        return _map_inputs(dataset, partial(_tokenize_batch, tokenizer_of(model)), parallel=True)
    else:
        _check_tokens(first, model.config, labeled)
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


def _has_values(values: Any) -> bool:
    """Returns whether values are known: of TensorFlow's tensors, those of the eager ones."""
    return isinstance(values, np.ndarray) or hasattr(values, "numpy")


def _shape(values: Any) -> list[int | None]:
    return list(values.shape) if hasattr(values, "shape") else []


def _is_images(inputs: Any) -> bool:
    shape = _shape(inputs)
    return len(shape) == 4 or (len(shape) == 3 and shape[-1] == 3)


def _check_is_array(inputs, config: ImageGPTConfig) -> None:
    """Raises `InputError` for what is to be read, or stacked, before a model can take it."""
    if getattr(getattr(inputs, "dtype", None), "kind", "") in ("O", "U", "S"):
        inputs = list(inputs)
    if isinstance(inputs, dict) or hasattr(inputs, "dtype"):
        return
    hint = reading_hint(inputs, config.image_size)
    if inputs is None:
        hint = "pass images or tokens as x"
    elif hint is None and isinstance(inputs, list | tuple):
        hint = "np.asarray(inputs) makes an array, and labels are an argument of their own"
        # An image of Pillow has a size only.
        shapes = [getattr(part, "shape", getattr(part, "size", ())) for part in inputs]
        if isinstance(inputs, list) and len({tuple(shape[:2]) for shape in shapes}) > 1:
            hint = f"{squares_hint(config.image_size)} makes one of images of several sizes"
    if hint is not None:
        got = type(inputs).__name__
        raise InputError(f"inputs must be an array or a tensor, got {got}; {hint}")


def _batch_hint(labeled: bool | None) -> str:
    if labeled is None:
        return "a single one becomes a batch by [None]"
    return "call .batch(batch_size) on the dataset"


def _check_images(images, config: ImageGPTConfig, labeled: bool | None = None) -> None:
    """Raises `InputError` for images of another shape or dtype, and says how to get these.

    Args:
        images: An array, a tensor, or the `tf.TensorSpec` of a dataset.
        config: The sizes.
        labeled: For a dataset, whether its elements are tuples; None for an array.
    """
    size, shape = config.image_size, _shape(images)
    dtype = keras.backend.standardize_dtype(images.dtype)
    if len(shape) == 3:
        hint = _batch_hint(labeled)
    elif shape[-1] not in (3, None):
        hint = channels_hint(shape, labeled)
    elif dtype != "uint8":
        hint = uint8_hint(images)
        if labeled is not None:
            cast = in_pipeline('tf.cast(images, "uint8")', labeled)
            hint = f"{cast} converts values 0…255"
        raise InputError(f"images must be uint8 with values 0…255, got {dtype}; {hint}")
    elif any(side not in (size, None) for side in shape[1:3]):
        hint = resize_hint(shape, size, labeled)
    else:
        return
    raise InputError(
        f"images must have shape [batch, {size}, {size}, 3] (image_size={size}), got {shape}; "
        f"{hint}"
    )


def _check_keys(inputs: dict, config: ImageGPTConfig) -> None:
    conditional = config.num_classes is not None
    allowed = {"tokens", "labels", "dropped"} if conditional else {"tokens", "masked"}
    if "tokens" not in inputs or not set(inputs) <= allowed:
        others = '"labels" and "dropped"' if conditional else '"masked"'
        model = f"num_classes={config.num_classes}" if conditional else "BERT"
        raise InputError(
            f'inputs must have the keys "tokens" and, for {model}, {others}; got {sorted(inputs)}'
        )
    shape = tuple(_shape(inputs["tokens"]))
    masked = tuple(_shape(inputs.get("masked", inputs["tokens"])))
    if masked != shape:
        raise InputError(f"masked must have the shape of tokens, {shape}, got {masked}")
    if "labels" in inputs:
        _check_labels(inputs["labels"], config.num_classes)
    for name in sorted({"labels", "dropped"} & set(inputs)):
        count = _shape(inputs[name])[:1]
        if count != list(shape[:1]) and None not in (*count, *shape[:1]):
            raise InputError(
                f"{name} must have one value for each image, {list(shape[:1])}, got {count}"
            )


def _check_labels(labels, num_classes: Any) -> None:
    check_label_spec(labels, num_classes)
    if _has_values(labels):
        check_label_values(np.asarray(labels), num_classes)


def _check_tokens(tokens, config: ImageGPTConfig, labeled: bool | None = None) -> None:
    if not hasattr(tokens, "shape") or not hasattr(tokens, "dtype"):
        return
    length, shape = config.sequence_length, _shape(tokens)
    dtype = keras.backend.standardize_dtype(tokens.dtype)
    if len(shape) != 2 or shape[1] not in (length, None):
        raise InputError(
            f"tokens must have shape [batch, {length}] (image_size={config.image_size}), "
            f"got {shape}{_tokens_hint(shape, dtype, config, labeled)}"
        )
    if "int" not in dtype:
        cast = 'tokens.astype("int32")'
        if labeled is not None:
            cast = in_pipeline('tf.cast(images, "int32")', labeled).replace("images", "tokens")
        raise InputError(f"tokens must be integers, got {dtype}; {cast} converts them")
    values = np.asarray(tokens) if _has_values(tokens) else np.zeros(0)
    if values.size:
        low, high = values.min(), values.max()
        if low < 0 or high >= config.vocabulary_size:
            raise InputError(f"{_token_range(config)}, got {low}…{high}")


def _tokens_hint(shape, dtype, config: ImageGPTConfig, labeled: bool | None) -> str:
    """Returns how inputs that are taken for tokens, by their rank, get a shape that fits."""
    size, length = config.image_size, config.sequence_length
    hints = []
    if shape == [length]:
        hints.append(_batch_hint(labeled))
    if len(shape) == 3 and dtype == "uint8":
        gray = "np.repeat(images[..., None], 3, axis=-1)"
        if labeled is not None:
            gray = in_pipeline("tf.repeat(images[..., None], 3, axis=-1)", labeled)
        hints.append(f"{gray} makes colored images of gray ones")
    if len(shape) == 3 and None not in shape[1:] and math.prod(shape[1:]) == length:
        flat = "tokens.reshape(len(tokens), -1)"
        if labeled is not None:
            flat = in_pipeline(f"tf.reshape(tokens, [-1, {length}])", labeled)
            flat = flat.replace("images", "tokens")
        hints.append(f"{flat} flattens rows of tokens")
    if len(shape) == 2 and shape[1] == 3 * size**2:
        hints.append(f"pixels.reshape(-1, {size}, {size}, 3) makes images of flat ones")
    if not hints:
        hints.append(f"model.tokenizer.tokenize(images) makes them of {size}×{size} pixels")
    return "; " + ", ".join(hints)
