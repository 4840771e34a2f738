"""Encoded images of any kind to uint8 [h, w, 3], and what to do with those that are none."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from igpt_keras.errors import InputError

# What Pillow raises for content that is damaged, cut off, or no image.
DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError),
    Image.DecompressionBombError,
)


def decode(content: bytes) -> np.ndarray:
    """Decodes an image file as a person would see it: uint8 [h, w, 3].

    Any format of Pillow. EXIF rotation is applied, transparency is laid over white,
    16-bit values keep their upper 8 bits, an animation gives its first frame.

    Raises:
        InputError: damaged content, or none that is an image.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(_upright_rgb(image))
    except Image.UnidentifiedImageError:
        raise InputError("no image" if content else "empty") from None
    except DECODING_ERRORS as error:
        raise InputError(str(error) or type(error).__name__) from None


def _upright_rgb(image: Image.Image) -> Image.Image:
    if image.format == "JPEG" and image.mode == "RGB" and not {"exif", "xmp"} & image.info.keys():
        # Most photographs: what follows would take as long as decoding a small one.
        return image
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow would clip these to 255 instead of scaling them.
        values = np.asarray(image, np.int64)
        image = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise InputError("floating-point pixels, of which it is unknown which value is white")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")


class ImageDecoder:
    """Decodes images, and keeps account of the bad ones.

    Args:
        skip_bad_images: whether a bad image is left out, or ends the run.

    Attributes:
        bad: the name of every bad image met so far, and what is wrong with it.
    """

    def __init__(self, skip_bad_images: bool = False):
        self.skip_bad_images = skip_bad_images
        self.bad: dict[str, str] = {}
        self._failures: list[Exception] = []

    def decode(self, content: bytes, name: str) -> np.ndarray | None:
        """The image uint8 [h, w, 3], or None for a bad one that is to be skipped.

        Raises:
            InputError: a bad image that is not to be skipped.
        """
        try:
            return decode(content)
        except InputError as error:
            self.bad[name] = str(error)
            if self.skip_bad_images:
                return None
            raise InputError(
                f"{name} cannot be read as an image ({error}); mend or remove it, "
                "or leave such images out (--skip-bad-images)"
            ) from None

    @contextlib.contextmanager
    def noting_errors(self) -> Iterator[None]:
        """Inside a pipeline: remembers the error of a user, for `naming_errors` to raise."""
        try:
            yield
        except (InputError, OSError) as error:
            self._failures.append(error)
            raise

    @contextlib.contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Around what reads a pipeline: raises the error of a user as it was.

        TensorFlow turns an exception in a pipeline into one of its own, which quotes it.
        """
        try:
            yield
        except tf.errors.OpError as error:
            for failure in self._failures:
                if str(failure) in error.message:
                    raise failure from None
            raise
