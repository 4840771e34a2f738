"""A palette, fitted to training images that the workers read."""

import dataclasses
import io
import os
from typing import ClassVar

import numpy as np
import tensorflow as tf

from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.data.source import TRAIN
from igpt_keras.data.splits import Split
from igpt_keras.data.streamed_split import StreamedSplit
from igpt_keras.data.tokenization import read_images
from igpt_keras.pipelines.beam import BeamRunner
from igpt_keras.pipelines.shards import Shard, Work, finished, sections
from igpt_keras.runs.options import DataOptions
from igpt_keras.runs.tokenizers import MAX_IMAGES
from igpt_keras.stages import stage
from igpt_keras.tokenizers import ColorPalette
from igpt_keras.wording import plural

IMAGES_PER_SHARD = 1024


@dataclasses.dataclass(frozen=True)
class ReadSample(Work):
    """Writes random training images, of which a shard is a section.

    Attributes:
        image_size: Side in pixels that images are averaged down to.
        seed: Seed of the choice of images.
    """

    image_size: int
    seed: int

    suffix: ClassVar[str] = ".npy"

    def write(self, path: str, shard: Shard, split: Split, decoder: ImageDecoder) -> int:
        images = read_images(
            split,
            self.image_size,
            augmentation=self.data["augmentation"],
            decoder=decoder,
            start=shard.start,
            limit=shard.stop - shard.start,
            seed=self.seed,
        ).images
        content = io.BytesIO()
        np.save(content, images)
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(content.getvalue())
        return len(images)


def fit_to_sample(
    folder: str,
    plan: str,
    data: DataOptions,
    runner: BeamRunner,
    *,
    image_size: int,
    num_colors: int,
    seed: int,
) -> ColorPalette:
    """Fits a palette as `igpt_keras.runs.tokenizers.fit_palette` does, to images of the workers.

    Args:
        folder: Folder for the images, which is removed at the end.
        plan: Digest of what the images depend on.
        data: One source.
        runner: Where the images are read.
        image_size: As for `fit_palette`.
        num_colors: As for `fit_palette`.
        seed: As for `fit_palette`.
    """
    split = data.data_set.train
    count = min(split.num_examples, MAX_IMAGES)
    # A stream would be read from its beginning for every shard.
    per_shard = count if isinstance(split, StreamedSplit) else IMAGES_PER_SHARD
    tf.io.gfile.makedirs(folder)
    work = ReadSample(folder, plan, data.to_json(), image_size=image_size, seed=seed)
    shards = sections(TRAIN, count, per_shard)
    runner.run(work, shards)
    parts = []
    for shard in finished(work, shards).splits[TRAIN]:
        with tf.io.gfile.GFile(os.path.join(folder, shard.file), "rb") as file:
            parts.append(np.load(io.BytesIO(file.read())))
    images = np.concatenate(parts)
    with stage(f"fitting a palette to {plural(len(images), 'image')}"):
        palette = ColorPalette.fit(images, num_colors, seed)
    tf.io.gfile.rmtree(folder)
    return palette
