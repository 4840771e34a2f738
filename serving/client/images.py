"""Images in any form as image files, which is what a server takes."""

import io
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from igpt_keras.data.augmentation import center_square
from igpt_keras.data.image_decoding import MAX_SIDE, decode
from igpt_keras.errors import InputError
from igpt_keras.tokenizers.image_hints import check_images

AnyImage = str | os.PathLike | bytes | np.ndarray | Image.Image
Images = Sequence[AnyImage] | np.ndarray
JPEG_SIGNATURE = b"\xff\xd8\xff"
# Larger files for a fifth of the time.
COMPRESS_LEVEL = 1


def encoded_images(images: Images) -> np.ndarray:
    """Returns images as the contents of image files that every export of ours reads alike.

    An image is decoded as in Python, which finds damage before anything is sent. A JPEG is then
    sent as it is; of anything else, and of an image above `MAX_SIDE`, a PNG of the center square.

    Args:
        images: A sequence of paths, image files (bytes), uint8 arrays [h, w, 3] (or gray ones
            with 1 channel) and PIL images; or one uint8 array [B, h, w, 3].

    Returns:
        An object array [B] of bytes.

    Raises:
        FileNotFoundError: An image file does not exist.
        InputError: There is no image, or one that cannot be read, which is named.
    """
    if isinstance(images, str | bytes | os.PathLike | Image.Image):
        raise InputError(f"images must be a sequence of images, got one {type(images).__name__}")
    if not len(images):
        raise InputError("images must hold at least one image, got none")
    # NumPy's own byte strings lose trailing zeros.
    contents = np.empty(len(images), dtype=object)
    contents[:] = [_encoded(image, index) for index, image in enumerate(images)]
    return contents


def _encoded(image: AnyImage, index: int) -> bytes:
    name = f"images[{index}]"
    if isinstance(image, str | os.PathLike):
        name, image = os.fspath(image), pathlib.Path(image).read_bytes()
    elif not isinstance(image, bytes | Image.Image):
        image = _from_array(image, name)
    try:
        pixels = decode(image)
    except InputError as error:
        raise InputError(f"{name} cannot be read as an image ({error})") from None
    return image if isinstance(image, bytes) and _is_read_alike(image) else _png(pixels)


def _from_array(values: np.ndarray, name: str) -> Image.Image:
    pixels = check_images(values)
    if pixels.ndim != 3 or not pixels.size:
        raise InputError(f"{name} must have shape [height, width, 3], got {list(pixels.shape)}")
    return Image.fromarray(pixels)


def _is_read_alike(content: bytes) -> bool:
    """Whether an export decodes a file to the same pixels, and at a like cost."""
    if not content.startswith(JPEG_SIGNATURE):
        return False
    with Image.open(io.BytesIO(content)) as image:
        return image.width * image.height <= MAX_SIDE**2


def _png(pixels: np.ndarray) -> bytes:
    """A PNG of the center square of pixels uint8 [h, w, 3]."""
    file = io.BytesIO()
    square = np.ascontiguousarray(center_square(pixels))
    Image.fromarray(square).save(file, "PNG", compress_level=COMPRESS_LEVEL)
    return file.getvalue()
