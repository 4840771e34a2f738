"""Images in any form as image files, which is what a server takes."""

import io
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from igpt_keras.errors import InputError
from igpt_keras.tokenizers.base import check_images

AnyImage = str | os.PathLike | bytes | np.ndarray | Image.Image
Images = Sequence[AnyImage] | np.ndarray
# Modes that a PNG can hold; images in other modes are converted.
PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


def encoded_images(images: Images) -> np.ndarray:
    """Returns images as the contents of image files.

    Args:
        images: A sequence of paths, image files (bytes), uint8 arrays [h, w, 3] (or gray ones
            with 1 channel) and PIL images; or one uint8 array [B, h, w, 3].

    Returns:
        An object array [B] of bytes.

    Raises:
        FileNotFoundError: An image file does not exist.
        InputError: There is no image, or something that is no image.
    """
    if isinstance(images, str | bytes | os.PathLike | Image.Image):
        raise InputError(f"images must be a sequence of images, got one {type(images).__name__}")
    if not len(images):
        raise InputError("images must hold at least one image, got none")
    # NumPy's own byte strings lose trailing zeros.
    contents = np.empty(len(images), dtype=object)
    contents[:] = [_encoded(image) for image in images]
    return contents


def _encoded(image: AnyImage) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        return pathlib.Path(image).read_bytes()
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        return _png(image if image.mode in PNG_MODES else image.convert("RGB"))
    pixels = check_images(image)
    if pixels.ndim != 3:
        raise InputError(f"an image must have shape [height, width, 3], got {list(pixels.shape)}")
    return _png(Image.fromarray(pixels))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
