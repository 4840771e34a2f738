"""A tokenizer whose every token depends on every pixel, and whose every pixel on every token."""

import numpy as np

from igpt_keras.tokenizers import ImageTokenizer, register_tokenizer


@register_tokenizer("tangle")
class Tangle(ImageTokenizer):
    """Token t is Σ a_tp x_p mod V, and pixel p is Σ b_pt 37 t mod 256, with random a and b.

    No weight is a multiple of the prime V, so a pixel that changes by less than V changes all
    tokens.
    """

    def __init__(self, image_size, grid, vocabulary_size=7):
        self.image_size = image_size
        self._grid = tuple(grid)
        self._vocabulary_size = vocabulary_size
        generator = np.random.default_rng(0)
        shape = (3 * image_size**2, grid[0] * grid[1])
        self.encoder = generator.integers(1, vocabulary_size, shape).astype(np.int32)
        self.decoder = generator.integers(1, 256, shape[::-1]).astype(np.int32)

    @property
    def grid(self):
        return self._grid

    @property
    def vocabulary_size(self):
        return self._vocabulary_size

    def get_config(self):
        return {
            "image_size": self.image_size,
            "grid": list(self._grid),
            "vocabulary_size": self._vocabulary_size,
        }

    def _tokenize(self, images):
        pixels = images.reshape(len(images), -1).astype(np.int32)
        return pixels @ self.encoder % self._vocabulary_size

    def _detokenize(self, tokens):
        pixels = 37 * tokens.astype(np.int32) @ self.decoder % 256
        return pixels.astype(np.uint8).reshape(-1, self.image_size, self.image_size, 3)

    def tokenize_in_graph(self, images):
        import tensorflow as tf

        pixels = tf.cast(tf.reshape(images, [-1, len(self.encoder)]), tf.int32)
        return tf.matmul(pixels, tf.constant(self.encoder)) % self._vocabulary_size

    def detokenize_in_graph(self, tokens):
        import tensorflow as tf

        pixels = tf.matmul(37 * tokens, tf.constant(self.decoder)) % 256
        shape = [-1, self.image_size, self.image_size, 3]
        return tf.reshape(tf.cast(pixels, tf.uint8), shape)
