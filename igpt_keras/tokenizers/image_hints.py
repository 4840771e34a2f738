"""The check of images, and what errors say next: the call that makes images of what was given."""

import os
from typing import Any

import numpy as np

from igpt_keras.errors import InputError

DATA = "igpt_keras.data"
READ = f"{DATA}.read_images"


def in_pipeline(images: str, labeled: bool) -> str:
    """Returns the call that applies an expression of `images` to a `tf.data.Dataset`.

    Args:
        images: The expression.
        labeled: Whether the elements are tuples that begin with the images.
    """
    if labeled:
        return f"dataset.map(lambda images, *rest: ({images}, *rest))"
    return f"dataset.map(lambda images: {images})"


def uint8_hint(images: Any) -> str:
    """Returns the call that makes uint8 of images of another dtype, by the range of their values.

    Args:
        images: An array, or anything without values, such as a symbolic tensor.
    """
    values, array = np.zeros(0), "np.asarray(images)"
    if isinstance(images, np.ndarray):
        values, array = images, "images"
    elif hasattr(images, "numpy"):  # TensorFlow's eager tensors.
        values = images.numpy()
    if not values.size or values.dtype.kind not in "iuf":
        return f'{array}.astype("uint8") converts values 0…255'
    low, high = values.min(), values.max()
    floating = values.dtype.kind == "f"
    if floating and 0 <= low and high <= 1:
        scaled = "np.rint(255 * images)"
    elif floating and -1 <= low and high <= 1:
        scaled = "np.rint(127.5 * (images + 1))"
    elif 0 <= low and high <= 255:
        scaled = array if (values == np.rint(values)).all() else "np.rint(images)"
    else:
        return f"the values are {low:g}…{high:g}"
    return f'{scaled}.astype("uint8") converts values {low:g}…{high:g}'


def channels_hint(shape: list[int | None], labeled: bool | None) -> str:
    """Returns the call that makes images of 3 channels.

    Args:
        shape: [B, h, w, c] with another c than 3.
        labeled: For a dataset, whether its elements are tuples; None for an array.
    """
    if shape[-1] == 1:
        array, tensor = "np.repeat(images, 3, axis=-1)", "tf.repeat(images, 3, axis=-1)"
    elif shape[1] == 3:
        array, tensor = "images.transpose(0, 2, 3, 1)", "tf.transpose(images, [0, 2, 3, 1])"
    else:
        array = tensor = "images[..., :3]"
    call = array if labeled is None else in_pipeline(tensor, labeled)
    return f"{call} makes images of 3 channels"


def resize_hint(shape: list[int | None], size: int, labeled: bool | None = None) -> str:
    """Returns the call that makes images of the model's size.

    Args:
        shape: [B, h, w, 3].
        size: Side R of the model's images.
        labeled: As for `channels_hint`.
    """
    if labeled is not None:
        resized = f'tf.image.resize(images, ({size}, {size}), method="area")'
        call = in_pipeline(f'tf.cast(tf.round({resized}), "uint8")', labeled)
    elif shape[1] == shape[2]:
        call = f"{DATA}.resize_area(images, {size}, {size})"
    else:
        call = squares_hint(size)
    return f"{call} resizes them"


def squares_hint(size: int) -> str:
    """Returns the call that makes squares of one size of images of any sizes."""
    squares = f"[{DATA}.center_square(np.asarray(image)) for image in images]"
    return f"{DATA}.resize_squares({squares}, {size})"


def reading_hint(inputs: Any, size: int | str = "…") -> str | None:
    """Returns the call that makes an array of an object that holds images or names them.

    Args:
        inputs: What was given in the place of images.
        size: Side of the model's images, if it is known.

    Returns:
        The call; None for an object of an unknown kind.
    """
    first = inputs[0] if isinstance(inputs, list | tuple) and inputs else inputs
    folder = f'igpt_keras.open_data("folder:photos").train, image_size={size}'
    if isinstance(first, str | bytes | os.PathLike):
        return f"{READ}({folder}).images reads the images of a folder"
    # By name: the classes of igpt_keras.data lie above this module.
    hints = {
        "igpt_keras.LabeledImages": "pass its .images",
        "igpt_keras.LabeledTokens": "pass its .tokens",
        "igpt_keras.Split": f"{READ}(split, image_size={size}).images reads it",
        "igpt_keras.DataSet": f"{READ}(data.train, image_size={size}).images reads a split of it",
        "PIL.Image": f"{DATA}.read_image(path, {size})[None] reads a file as a batch of one",
    }
    kinds = (f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(inputs).__mro__)
    return next((hints[kind] for kind in kinds if kind in hints), None)


def check_images(images: np.ndarray) -> np.ndarray:
    """Returns images as uint8 [..., H, W, 3]; gray ones get three equal channels.

    Raises:
        InputError: The rank, dtype or number of channels is another one.
    """
    given, images = images, np.asarray(images)
    if images.dtype != np.uint8:
        hint = reading_hint(given) or uint8_hint(images)
        raise InputError(f"images must be uint8 with values 0…255, got {images.dtype}; {hint}")
    if images.ndim < 3 or images.shape[-1] not in (1, 3):
        raise InputError(
            f"images must have shape [..., height, width, 3] (or 1 channel), "
            f"got {list(images.shape)}"
        )
    return np.broadcast_to(images, (*images.shape[:-1], 3))
