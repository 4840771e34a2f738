"""A second tokenizer, which is none of pixels: a token is the mean gray of a block of pixels."""

import numpy as np

from igpt_keras.tokenizers import ImageTokenizer, register_tokenizer

SIDE = 2


@register_tokenizer("mean_blocks")
class MeanBlocks(ImageTokenizer):
    """Its levels stand in a file, as weights would: `get_config` leaves them out."""

    def __init__(self, image_size, num_levels=4, levels=None):
        self.image_size = image_size
        self.num_levels = num_levels
        self.levels = np.zeros(num_levels) if levels is None else np.asarray(levels, np.float64)

    @property
    def vocabulary_size(self):
        return self.num_levels

    @property
    def grid(self):
        return (self.image_size // SIDE, self.image_size // SIDE)

    def get_config(self):
        return {"image_size": self.image_size, "num_levels": self.num_levels}

    def _blocks(self, images):
        rows, columns = self.grid
        return images.reshape(-1, rows, SIDE, columns, SIDE, 3)

    def _tokenize(self, images):
        means = self._blocks(images).mean(axis=(2, 4, 5)).reshape(len(images), -1)
        return np.abs(means[..., None] - self.levels).argmin(axis=-1).astype(np.int32)

    def _detokenize(self, tokens):
        rows, columns = self.grid
        gray = np.rint(self.levels[tokens]).astype(np.uint8).reshape(-1, rows, columns)
        return gray.repeat(SIDE, axis=1).repeat(SIDE, axis=2)[..., None].repeat(3, axis=-1)

    def tokenize_in_graph(self, images):
        import tensorflow as tf

        rows, columns = self.grid
        blocks = tf.reshape(tf.cast(images, tf.float64), [-1, rows, SIDE, columns, SIDE, 3])
        means = tf.reshape(tf.reduce_mean(blocks, axis=[2, 4, 5]), [-1, rows * columns])
        distances = tf.abs(means[..., None] - tf.constant(self.levels))
        return tf.argmin(distances, axis=-1, output_type=tf.int32)

    def write_assets(self, folder):
        np.save(folder / "levels.npy", self.levels)
        return self.get_config()

    @classmethod
    def read_assets(cls, folder, config):
        return cls(**config, levels=np.load(folder / "levels.npy"))
