"""Image files to the square images of a model.

One implementation for Python and for exported graphs: eager, the functions return
tensors; traced, they become part of a SavedModel.
"""

import os
import pathlib

import numpy as np
import tensorflow as tf

from igpt_keras.data.image_decoding import decode
from igpt_keras.errors import InputError


def read_image(path: str | os.PathLike, size: int) -> np.ndarray:
    """Reads an image file, of any kind that `decode` knows, as the model sees it.

    Returns: uint8 [size, size, 3].

    Raises:
        FileNotFoundError: no such file.
        InputError: a file that is no image, or a damaged one.
    """
    try:
        image = decode(pathlib.Path(path).read_bytes())
    except InputError as error:
        raise InputError(f"{path} cannot be read as an image ({error})") from None
    return fit_to_size(image, size).numpy()


def fit_to_size(image, size: int):
    """Center crop to a square, then area-averaged to `size`: uint8 [h, w, 3] to [size, size, 3].

    An image of that size already comes back as it is.
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    resized = tf.image.resize(square[None], (size, size), method="area")[0]
    return tf.cast(tf.round(resized), tf.uint8)
