"""From image files to tokens and back, in TensorFlow operations.

Shapes: B images, R `image_size`, n tokens.
"""

from collections.abc import Callable, Iterable

import tensorflow as tf

from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.tensors import Tensor
from igpt_keras.tokenizers.base import tokenizer_of
from serving.exporting.image_decoding import decode_image, fit_to_size

IMAGE_BYTES = tf.TensorSpec([None], tf.string, "image_bytes")
# An image of the largest size takes three bytes per pixel, and as many again when cropped.
MAX_PARALLEL_DECODES = 2


class Preprocessing:
    """From image files to a model's tokens, and from tokens to images.

    Args:
        model: A model with a tokenizer.
        decode: A function from an image file, a string scalar, to uint8 [h, w, 3].

    Attributes:
        model: As given.
        tokens: A function from image files, string [B], to tokens, int32 [B, n].
    """

    def __init__(self, model: GenerativeModel, decode: Callable[[Tensor], Tensor]):
        self.model = model
        self.size = model.config.image_size
        self.length = model.config.sequence_length
        self.tokenizer = tokenizer_of(model)
        self._decode = decode
        # Traced once, for all signatures.
        self.tokens = tf.function(self._tokens, input_signature=[IMAGE_BYTES], autograph=False)

    def _tokens(self, image_bytes):
        return tf.map_fn(
            self._tokens_of_one,
            image_bytes,
            fn_output_signature=tf.TensorSpec([self.length], tf.int32),
            parallel_iterations=MAX_PARALLEL_DECODES,
        )

    def _tokens_of_one(self, content):
        image = fit_to_size(self._decode(content), self.size)
        return self.tokenizer.tokenize_in_graph(image[None])[0]

    def known(self, keep_rows: Tensor) -> Tensor:
        """Returns the known tokens, bool [B, n], of images of which int32 [B] rows are kept."""
        rows, columns = self.tokenizer.grid
        num_known = keep_rows // (self.size // rows) * columns
        return tf.range(self.length)[None] < num_known[:, None]

    def checks_of(self, keep_rows: Tensor) -> list:
        """Returns operations that refuse a number of rows that cannot be kept."""
        height = self.size // self.tokenizer.grid[0]
        checks = [
            require(
                (keep_rows >= 0) & (keep_rows <= self.size),
                f"keep_rows must lie in 0…{self.size} (the image height)",
                keep_rows,
            )
        ]
        if height > 1:
            message = f"keep_rows must be a multiple of {height} (the height of a token)"
            checks.append(require(keep_rows % height == 0, message, keep_rows))
        return checks

    def outputs(self, tokens: Tensor, log_likelihood: Tensor) -> dict[str, Tensor]:
        """Returns the outputs of `complete` and `sample` for sampled tokens."""
        pixels = self.tokenizer.detokenize_in_graph(tokens)
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
