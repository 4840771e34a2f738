"""The bytes of a file, read in TensorFlow operations."""

import numpy as np
import tensorflow as tf

from igpt_keras.tensors import Tensor


class Bytes:
    """The bytes of a file as numbers; 0 beyond its end. Positions are int64.

    Args:
        content: string scalar.

    Attributes:
        content: As given.
        size: int64 scalar, the size of the file in bytes.
    """

    def __init__(self, content: Tensor):
        self.content = content
        self.size = tf.cast(tf.strings.length(content), tf.int64)
        self._values = tf.concat(
            [tf.io.decode_raw(content, tf.uint8), tf.zeros([1], tf.uint8)], axis=0
        )

    # These are called from many places, and every operation costs time at export and start.

    def has(self, position: Tensor, expected: bytes) -> Tensor:
        """Returns whether the file has the bytes `expected` at `position`."""
        found = self._at(position + np.arange(len(expected)))
        return tf.reduce_all(found == np.frombuffer(expected, np.uint8))

    def count(self, pair: bytes) -> Tensor:
        """Returns how often two bytes follow each other: int64 scalar."""
        here = (self._values[:-1] == pair[0]) & (self._values[1:] == pair[1])
        return tf.math.count_nonzero(here)

    def number(self, position: Tensor, length: int = 1, little_endian: Tensor = False) -> Tensor:
        """Returns the unsigned number of `length` bytes at each position: int64 of its shape."""
        if length == 1:
            return tf.cast(self._at(position), tf.int64)
        weights = 256 ** np.arange(length)
        if not isinstance(little_endian, bool):
            weights = tf.where(little_endian, weights, weights[::-1])
        elif not little_endian:
            weights = weights[::-1]
        if not isinstance(position, int):
            position = tf.expand_dims(position, -1)
        digits = self._at(position + np.arange(length))
        return tf.reduce_sum(tf.cast(digits, tf.int64) * weights, axis=-1)

    def _at(self, places):
        """The bytes at some places, none of which is negative: uint8 of their shape."""
        return tf.gather(self._values, tf.minimum(self.size, places))
