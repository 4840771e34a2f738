"""Splits that are read sequentially, such as those of TensorFlow Datasets and compressed tars."""

import abc
from typing import Any

import tensorflow as tf

from igpt_keras.data.splits import ENDLESS, RECORD_BLOCK_SIZE, Record, Split

# Shuffling draws from this many undecoded images in memory.
SHUFFLE_BUFFER_SIZE = 16384


class StreamedSplit(Split):
    """A split that is read from its beginning, and shuffled by files and a shuffle buffer.

    To start at a later image, `shuffled` skips whole epochs without reading them, and reads
    the images before it in its own epoch without decoding them.
    """

    @abc.abstractmethod
    def references(self, seed: tf.Tensor | None) -> tf.data.Dataset:
        """Returns one epoch of references as in `Split`, one by one (scalars).

        Args:
            seed: int64 scalar that determines the order of the files; None for the stored
                order.
        """

    def record(self, index: int, image_bytes: bytes, label: int, name: bytes) -> Record:
        return Record(image_bytes, int(label), name.decode("utf-8", "backslashreplace"))

    def section(self, start: int, stop: int) -> tf.data.Dataset:
        """Returns the references `start`…`stop` - 1 in the stored order, one by one.

        Split kinds that need not read what lies before `start` override this.
        """
        return self.references(None).skip(start).take(stop - start)

    def in_order(self, start: int = 0, stop: int | None = None) -> tf.data.Dataset:
        stop = self.num_examples if stop is None else stop
        return self.section(start, stop).batch(RECORD_BLOCK_SIZE)

    def shuffled(self, seed: int, start: int = 0, step: int = 1) -> tf.data.Dataset:
        def shuffled_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            # Holds inside this function only, and keeps TensorFlow's global seed out of orders.
            tf.random.set_seed(1)
            seeds = tf.random.stateless_uniform(
                [2], tf.stack([tf.constant(seed, tf.int64), epoch]), maxval=ENDLESS, dtype=tf.int64
            )
            buffer_size = min(SHUFFLE_BUFFER_SIZE, self.num_examples)
            shuffle_seed: Any = seeds[1]  # Declared as int; tensors work as well.
            return self.references(seeds[0]).shuffle(
                buffer_size, seed=shuffle_seed, reshuffle_each_iteration=False
            )

        epochs = tf.data.Dataset.range(start // self.num_examples, ENDLESS)
        references = epochs.flat_map(shuffled_epoch).skip(start % self.num_examples)
        return references.shard(step, 0).batch(RECORD_BLOCK_SIZE)
