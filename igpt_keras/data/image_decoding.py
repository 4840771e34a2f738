"""Image files of any kind to uint8 [h, w, 3], and what happens to bad ones."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from igpt_keras.data.augmentation import center_square, resize_area
from igpt_keras.errors import InputError

# What Pillow raises for content that is damaged, truncated or not an image.
DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError),
    Image.DecompressionBombError,
)


def decode(image_bytes: bytes) -> np.ndarray:
    """Decodes an image file as a person would see it.

    Every format of Pillow is known. EXIF orientation is applied, transparent pixels are laid
    over white, 16-bit values keep their upper 8 bits, and an animation gives its first frame.

    Returns:
        uint8 [h, w, 3].

    Raises:
        InputError: The bytes are damaged or not an image.
    """
    try:
        with Image.open(io.BytesIO(image_bytes)) as image:
            return np.asarray(_upright_rgb(image))
    except Image.UnidentifiedImageError:
        raise InputError("no image" if image_bytes else "empty") from None
    except DECODING_ERRORS as error:
        raise InputError(str(error) or type(error).__name__) from None


def read_image(path: str | os.PathLike, image_size: int) -> np.ndarray:
    """Reads an image file as the model sees it: its center square, averaged by area.

    Returns:
        uint8 [image_size, image_size, 3].

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is damaged or not an image.
    """
    try:
        image = decode(pathlib.Path(path).read_bytes())
    except InputError as error:
        raise InputError(f"{path} cannot be read as an image ({error})") from None
    return resize_area(center_square(image)[None], image_size, image_size)[0]


class ImageDecoder:
    """Decodes images and keeps a record of the bad ones.

    Args:
        skip_bad_images: Whether bad images are left out; otherwise the first one is an error.

    Attributes:
        bad: The names of all bad images so far, and what is wrong with each.
    """

    def __init__(self, skip_bad_images: bool = False):
        self.skip_bad_images = skip_bad_images
        self.bad: dict[str, str] = {}
        self._failures: list[Exception] = []

    def decode(self, image_bytes: bytes, name: str) -> np.ndarray | None:
        """Returns the image uint8 [h, w, 3], or None for a bad image that is to be skipped.

        Raises:
            InputError: The image is bad and not to be skipped.
        """
        try:
            return decode(image_bytes)
        except InputError as error:
            self.bad[name] = str(error)
            if self.skip_bad_images:
                return None
            raise InputError(
                f"{name} cannot be read as an image ({error}); repair or remove it, or pass "
                "skip_bad_images=True to leave out such images"
            ) from None

    @contextlib.contextmanager
    def record_errors(self) -> Iterator[None]:
        """Inside a pipeline: keeps an error that `restore_errors` is to raise."""
        try:
            yield
        except (InputError, OSError) as error:
            self._failures.append(error)
            raise

    @contextlib.contextmanager
    def restore_errors(self) -> Iterator[None]:
        """Around code that reads a pipeline: raises an error from inside it as it was.

        TensorFlow turns an exception in a pipeline into one of its own, which quotes it.
        """
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError as error:
            for failure in self._failures:
                if str(failure) in error.message:
                    raise failure from None
            raise


def _upright_rgb(image: Image.Image) -> Image.Image:
    if image.format == "JPEG" and image.mode == "RGB" and not {"exif", "xmp"} & image.info.keys():
        # Most photographs; the steps below would take as long as decoding a small one.
        return image
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow's conversion clips to 255 instead of scaling.
        values = np.asarray(image, np.int64)
        image = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise InputError("floating-point pixels, whose value for white is unknown")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")
