"""From image files to tokens and back, in TensorFlow operations.

Shapes: B images, R `image_size`, n tokens.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import tensorflow as tf

from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.tensors import Tensor
from igpt_keras.tokenizers.base import tokenizer_of
from serving.exporting.image_decoding import decode_image, fit_to_size

IMAGE_BYTES = tf.TensorSpec([None], tf.string, "image_bytes")
KEEP_ROWS = tf.TensorSpec([None], tf.int32, "keep_rows")
# An image of the largest size takes three bytes per pixel, and as many again when cropped.
MAX_PARALLEL_DECODES = 2


class Primers(NamedTuple):
    """What is known of B images."""

    tokens: Tensor  # int32 [B, n]
    known: Tensor  # bool [B, n]
    images: Tensor  # uint8 [B, R, R, 3]


class Preprocessing:
    """From image files to a model's tokens, and from tokens to images.

    Args:
        model: A model with a tokenizer.
        decode: A function from an image file, a string scalar, to uint8 [h, w, 3].

    Attributes:
        model: As given.
        size: R.
        length: n.
        tokenizer: The model's.
    """

    def __init__(self, model: GenerativeModel, decode: Callable[[Tensor], Tensor]):
        self.model = model
        self.size = model.config.image_size
        self.length = model.config.sequence_length
        self.tokenizer = tokenizer_of(model)
        self._decode = decode
        # Traced once, for all signatures.
        self._primers = tf.function(
            self._map_primers, input_signature=[IMAGE_BYTES, KEEP_ROWS], autograph=False
        )

    def tokens(self, image_bytes: Tensor) -> Tensor:
        """Returns the tokens, int32 [B, n], of image files, string [B]."""
        return self.primers(image_bytes, tf.fill(tf.shape(image_bytes), self.size)).tokens

    def primers(self, image_bytes: Tensor, keep_rows: Tensor) -> "Primers":
        """Returns what is known of image files, string [B], of which int32 [B] rows are kept."""
        return Primers(*self._primers(image_bytes, keep_rows))

    def image(self, content: Tensor) -> Tensor:
        """Returns an image file, a string scalar, in the model's size: uint8 [R, R, 3]."""
        return fit_to_size(self._decode(content), self.size)

    def _map_primers(self, image_bytes, keep_rows):
        return tf.map_fn(
            lambda image: self._primer(*image),
            (image_bytes, keep_rows),
            fn_output_signature=(
                tf.TensorSpec([self.length], tf.int32),
                tf.TensorSpec([self.length], tf.bool),
                tf.TensorSpec([self.size, self.size, 3], tf.uint8),
            ),
            parallel_iterations=MAX_PARALLEL_DECODES,
        )

    def _primer(self, content, keep_rows):
        image = self.image(content)
        tokens, known = self.tokenizer.tokenize_known_in_graph(image[None], keep_rows[None])
        return tokens[0], known[0], image

    def checks_of(self, keep_rows: Tensor) -> list:
        """Returns operations that refuse a number of rows that cannot be kept."""
        message = f"keep_rows must lie in 0…{self.size} (the image height)"
        return [require((keep_rows >= 0) & (keep_rows <= self.size), message, keep_rows)]

    def completed(self, tokens: Tensor, known: Tensor, images: Tensor) -> Tensor:
        """Returns what tokens stand for; known pixels come back as they were.

        Args:
            tokens: int32 [B, n].
            known: bool [B, R, R] or [B, R, 1], the known pixels.
            images: uint8 [B, R, R, 3], the images that the known pixels are of.

        Returns:
            uint8 [B, R, R, 3].
        """
        pixels = self.tokenizer.detokenize_in_graph(tokens)
        if self.tokenizer.pixelwise:
            return pixels
        return tf.where(known[..., None], images, pixels)


def outputs(pixels: Tensor, tokens: Tensor, log_likelihood: Tensor) -> dict[str, Tensor]:
    """Returns the outputs of `complete` and `sample`."""
    return {
        "png_bytes": tf.io.encode_png(pixels),
        "pixels": pixels,
        "tokens": tokens,
        "log_likelihood": log_likelihood,
    }


def preprocess(models: Iterable[GenerativeModel], max_pixels: int) -> list[Preprocessing]:
    """Returns the preprocessing of some models, which decode images by one function.

    Args:
        models: Models with tokenizers.
        max_pixels: A larger image, by the size in its header, is refused before it is decoded.
    """
    decode = tf.function(
        lambda content: decode_image(content, max_pixels),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )
    return [Preprocessing(model, decode) for model in models]


def require(condition: Tensor, message: str, values: Tensor) -> tf.Operation:
    """Returns an operation that refuses values unless all of a condition hold."""
    return tf.debugging.Assert(tf.reduce_all(condition), [message + ", got", values])
