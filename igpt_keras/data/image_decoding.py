"""Image files of any kind to uint8 [h, w, 3], and what happens to bad ones."""

import contextlib
import io
import os
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from igpt_keras.data.augmentation import center_square, resize_area
from igpt_keras.data.files import read_image_file
from igpt_keras.errors import InputError

# What Pillow raises for content that is damaged, truncated or not an image.
DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError),
    Image.DecompressionBombError,
)
# The area of an 8192 × 8192 image, 200 MB decoded: few cameras take more.
MAX_PIXELS = 1 << 26
# Ten times the side of the largest models' images. Larger images are averaged down at once.
MAX_SIDE = 2048
# Tags of TIFF files, and the photometric interpretation of those whose 0 is white.
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0


def decode(image: bytes | Image.Image) -> np.ndarray:
    """Decodes an image as a person would see it.

    Every format of Pillow is known. Orientation is applied, transparent pixels are laid over
    white, gray levels of 16 bits keep their upper 8, and an animation gives its first frame. Color
    profiles are not applied. An image whose shorter side is above `MAX_SIDE` is averaged down by
    the smallest whole number that suffices; pixels that are left over at its right and lower
    edge are cut off.

    Args:
        image: The content of an image file, or an image that Pillow opened or made.

    Returns:
        uint8 [h, w, 3].

    Raises:
        InputError: The bytes are damaged or not an image; the image declares more than
            `MAX_PIXELS` pixels; or its value for white is unknown, as in floating-point files.

    Example:
        ```python
        import io

        from PIL import Image

        from igpt_keras.data.image_decoding import decode

        file = io.BytesIO()
        Image.new("RGB", (9, 6), "red").save(file, "PNG")
        decode(file.getvalue()).shape  # (6, 9, 3)
        ```
    """
    try:
        if isinstance(image, Image.Image):
            return np.asarray(_upright_rgb(image))
        with Image.open(io.BytesIO(image)) as opened:
            return np.asarray(_upright_rgb(opened))
    except Image.UnidentifiedImageError:
        raise InputError("no image" if image else "empty") from None
    except DECODING_ERRORS as error:
        raise InputError(str(error) or type(error).__name__) from None


def read_image(path: str | os.PathLike, image_size: int) -> np.ndarray:
    """Reads an image file as the model sees it: its center square, averaged by area.

    Returns:
        uint8 [image_size, image_size, 3].

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is damaged, too large or not an image.
    """
    return resize_area(read_square(path)[None], image_size, image_size)[0]


def read_square(path: str | os.PathLike) -> np.ndarray:
    """Reads the center square of an image file: uint8 [side, side, 3].

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is damaged, too large or not an image.
    """
    content = read_image_file(os.path.expanduser(path))
    try:
        return center_square(decode(content))
    except InputError as error:
        raise InputError(f"{path} cannot be read as an image ({error})") from None


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
            self.reject(name, str(error))
            return None

    def reject(self, name: str, reason: str) -> None:
        """Records a bad image.

        Raises:
            InputError: It is not to be skipped.
        """
        self.bad[name] = reason
        if not self.skip_bad_images:
            raise InputError(
                f"{name} cannot be read as an image ({reason}); repair or remove it, or pass "
                "skip_bad_images=True to leave out such images"
            )

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
    width, height = image.size
    if not 1 <= width * height <= MAX_PIXELS:
        raise InputError(f"{width} × {height} pixels; an image must have 1…{MAX_PIXELS:,}")
    if not _is_upright_rgb(image):
        image = _over_white(_upright(image)).convert("RGB")
    factor = -(-min(image.size) // MAX_SIDE)
    if factor == 1:
        return image
    width, height = (side // factor * factor for side in image.size)
    return image.reduce(factor, (0, 0, width, height))


def _is_upright_rgb(image: Image.Image) -> bool:
    """Whether an image is like most photographs, for which a look takes less time."""
    known = image.format == "JPEG" and image.mode == "RGB"
    return known and not {"exif", "xmp"} & image.info.keys()


def _upright(image: Image.Image) -> Image.Image:
    """Applies the orientation, and reduces gray levels to 8 bits."""
    # What follows makes images without a format and without tags.
    gray = _gray_levels(image)
    image = ImageOps.exif_transpose(image)
    if gray is None:
        return image
    shift, inverted = gray
    values = np.asarray(image, np.int64)
    levels = (values >> shift).clip(0, 255).astype(np.uint8)
    upright = Image.fromarray(255 - levels if inverted else levels)
    transparent = image.info.get("transparency")
    if transparent is not None:
        upright.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return upright


def _gray_levels(image: Image.Image) -> tuple[int, bool] | None:
    """How to reduce gray levels of more than 8 bits.

    Returns:
        By how many bits to shift them, and whether 0 is white; None for an image of 8 bits.

    Raises:
        InputError: The value for white is unknown.
    """
    # Pillow scales the values of a PGM to 16 bits; in other files of this mode they have 32.
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "floating-point" if image.mode == "F" else "32-bit integer"
        raise InputError(f"{kind} pixels, whose value for white is unknown")
    if not image.mode.startswith("I"):
        return None
    tags = getattr(image, "tag_v2", {})
    (bits, *_) = tags.get(BITS_PER_SAMPLE, (16,))
    return bits - 8, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _over_white(image: Image.Image) -> Image.Image:
    """Lays transparent pixels over white."""
    if not image.has_transparency_data:
        return image
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple) and max(transparent) > 255:
        raise InputError("a transparent color of 16 bits, which Pillow does not compare")
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    background = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(background, image)
