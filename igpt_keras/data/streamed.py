"""Splits that are read from their beginning on, such as sharded TFDS sets and packed tars."""

import abc

import tensorflow as tf

from igpt_keras.data.splits import BLOCK_SIZE, ENDLESS, Record, Split

# Undecoded images that wait in memory to be drawn from, as far as a stream is shuffled.
SHUFFLE_BUFFER = 16384


class StreamedSplit(Split):
    """A split that can only be read through: shuffled by files, then within `SHUFFLE_BUFFER`.

    To start at a later item, the epochs before it are left out unread, and what comes
    before it in its own epoch is read and passed over, undecoded.
    """

    @abc.abstractmethod
    def items(self, seed: tf.Tensor | None) -> tf.data.Dataset:
        """One epoch of items one by one, as of `Split` but scalars.

        Args:
            seed: int64 scalar, of the order of the files; None for the stored order.
        """

    def record(self, index: int, content: bytes, label: int, name: bytes) -> Record:
        return Record(content, int(label), name.decode())

    def in_order(self) -> tf.data.Dataset:
        return self.items(None).batch(BLOCK_SIZE)

    def shuffled(self, seed: int, start: int = 0, step: int = 1) -> tf.data.Dataset:
        def shuffled_epoch(epoch):
            # Within this function only: orders shall not depend on TensorFlow's global seed.
            tf.random.set_seed(1)
            seeds = tf.random.stateless_uniform(
                [2], tf.stack([tf.constant(seed, tf.int64), epoch]), maxval=ENDLESS, dtype=tf.int64
            )
            buffer = min(SHUFFLE_BUFFER, self.num_examples)
            return self.items(seeds[0]).shuffle(
                buffer, seed=seeds[1], reshuffle_each_iteration=False
            )

        epochs = tf.data.Dataset.range(start // self.num_examples, ENDLESS)
        items = epochs.flat_map(shuffled_epoch).skip(start % self.num_examples)
        return items.shard(step, 0).batch(BLOCK_SIZE)
