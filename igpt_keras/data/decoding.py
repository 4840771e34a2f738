"""Encoded images of any kind to uint8 [h, w, 3], and what to do with those that are none."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from igpt_keras.errors import InputError

# What Pillow raises for content that is damaged, cut off, or no image.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def decode(content: bytes) -> np.ndarray:
    """Decodes an image file as a person would see it: uint8 [h, w, 3].

    Any format of Pillow. EXIF rotation is applied, transparency is laid over white,
    16-bit values keep their upper 8 bits, an animation gives its first frame.

    Raises:
        InputError: damaged content, or none that is an image.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except DECODING_ERRORS as error:
        raise InputError(str(error) or type(error).__name__) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow would clip these to 255 instead of scaling them.
        values = np.asarray(image, np.int64)
        image = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")


class Decoder:
    """Decodes records in a `tf.data` pipeline, and keeps account of the bad images.

    Args:
        skip_bad_images: whether a bad image is left out, or ends the run.

    Attributes:
        bad: the name of every bad image met so far, and what is wrong with it.
    """

    def __init__(self, skip_bad_images: bool = False):
        self.skip_bad_images = skip_bad_images
        self.bad: dict[str, str] = {}

    def decoded(self, records: tf.data.Dataset) -> tf.data.Dataset:
        """`records` with images uint8 [h, w, 3]; bad ones are skipped, or end the stream.

        See `naming_errors` for how the user gets to know which image ended it.
        """
        if records.element_spec["image"].dtype != tf.string:
            return records
        records = records.map(self._decode, num_parallel_calls=tf.data.AUTOTUNE)
        if self.skip_bad_images:
            records = records.filter(lambda record: tf.size(record["image"]) > 0)
        return records

    def _decode(self, record):
        image = tf.numpy_function(
            self._decode_or_note, [record["image"], record["name"]], tf.uint8, stateful=False
        )
        return {**record, "image": tf.ensure_shape(image, [None, None, 3])}

    def _decode_or_note(self, content, name):
        try:
            return decode(content)
        except InputError as error:
            self.bad[name.decode()] = str(error)
            if self.skip_bad_images:
                return np.zeros((0, 0, 3), np.uint8)
            raise

    @contextlib.contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Around whatever reads the pipeline: a bad image raises an `InputError` with its name."""
        try:
            yield
        except tf.errors.OpError:
            if self.skip_bad_images or not self.bad:
                raise
            name, reason = next(iter(self.bad.items()))
            raise InputError(
                f"{name} cannot be read as an image ({reason}); mend or remove it, "
                "or leave such images out (--skip-bad-images)"
            ) from None
