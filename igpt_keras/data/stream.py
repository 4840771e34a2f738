"""Streams of batches to train on: endless, shuffled, augmented, tokenized, reproducible."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from igpt_keras.data.augmentation import Augmentation, augmentations
from igpt_keras.data.data_set import WeightedSource
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.data.loader import Loader, check_augmentation, size_of_images
from igpt_keras.data.splits import ENDLESS, RECORD_BLOCK_SIZE, ArraySplit, Split
from igpt_keras.data.tokenization import tokenize
from igpt_keras.errors import InputError
from igpt_keras.models.label_dropout import draw_dropped_of_step
from igpt_keras.models.masking import draw_mask_of_step
from igpt_keras.tokenizers import ImageTokenizer

# Number of choices between the sources of a mixture that are drawn at a time.
CHOICE_BLOCK_SIZE = 4096


@dataclasses.dataclass(frozen=True)
class TrainingStream:
    """Batches of tokens, or of images, without end, determined by a seed.

    Every epoch has another order, and each image in it another augmentation. A batch depends on
    its step only, not on `start_step` or on the number of workers. (Bad images that are skipped
    move the later ones forward; a stream that starts later does not know about them.)

    Attributes:
        sources: The mixture.
        tokenizer: A tokenizer with an image size; n tokens an image. None for images.
        batch_size: Number B of images in a global batch.
        augmentation: Name of the augmentation of sources that have none of their own.
        seed: Determines order, mixture and augmentation.
        labels: Whether batches are pairs of inputs and labels.
        mask_probability: None for tokens as inputs. For BERT, the probability of each position
            to be in the mask M; inputs are then `{"tokens": tokens, "masked": masked}`.
        label_dropout: None without classes. For a class-conditional model, the probability of
            each label to be hidden from it; inputs are then `{"tokens": tokens, "labels": labels,
            "dropped": dropped}`.
        decoder: Keeps a record of bad images.
        cache: Folder of cached tokens, see `tokenize`; None to decode in every epoch.
        image_size: Side R of the images in pixels, where there is no tokenizer.

    Example:
        ```python
        from igpt_keras import ColorPalette
        from igpt_keras.data import TrainingStream, open_data, read_images

        data = open_data("digits")
        palette = ColorPalette.fit(read_images(data.train, image_size=8).images, num_colors=8)
        stream = TrainingStream(data.sources, palette, batch_size=32, seed=0)
        tokens = next(iter(stream.dataset()))  # int32 [32, 64]
        ```
    """

    sources: Sequence[WeightedSource]
    tokenizer: ImageTokenizer | None
    batch_size: int
    augmentation: str = "none"
    seed: int = 0
    labels: bool = False
    mask_probability: float | None = None
    label_dropout: float | None = None
    decoder: ImageDecoder = dataclasses.field(default_factory=ImageDecoder)
    cache: str | os.PathLike | None = None
    image_size: int | None = None

    def __post_init__(self):
        if (self.tokenizer is None) == (self.image_size is None):
            raise InputError(
                "give either a tokenizer or image_size, got "
                f"tokenizer={self.tokenizer} and image_size={self.image_size}"
            )
        if self.tokenizer is not None:
            size_of_images(self.tokenizer)
        elif (self.cache, self.mask_probability, self.label_dropout) != (None, None, None):
            raise InputError(
                "cache, mask_probability and label_dropout are for tokens, but there is no "
                "tokenizer"
            )
        if self.mask_probability is not None and self.label_dropout is not None:
            raise InputError("give either mask_probability or label_dropout, got both")
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")
        for source in self.sources:
            check_augmentation(source.split, source.augmentation or self.augmentation)
            if self.cache is not None and self._augmentation(source).train:
                raise InputError(
                    f"cache keeps images without augmentation, but {source.split.name} has "
                    f"augmentation={source.augmentation or self.augmentation}"
                )

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that hold as many images as there are, rounded up."""
        total = sum(source.split.num_examples for source in self.sources)
        return -(-total // self.batch_size)

    def dataset(
        self, start_step: int = 0, worker: int = 0, num_workers: int = 1
    ) -> tf.data.Dataset:
        """Returns the batches from `start_step` on.

        Args:
            start_step: Number of batches to skip.
            worker: Index of this worker, which gets every `num_workers`-th image of a batch.
            num_workers: Number of workers that share each batch; must divide `batch_size`.

        Returns:
            Inputs, or pairs of inputs and labels int32 [b]. Inputs are tokens int32 [b, n], for
            BERT those and masked bool [b, n], with `label_dropout` those, labels int32 [b] and
            dropped bool [b], or without a tokenizer images uint8 [b, R, R, 3]; b is
            `batch_size` / `num_workers`.
        """
        if num_workers < 1 or self.batch_size % num_workers:
            raise InputError(
                f"num_workers must divide batch_size={self.batch_size}, got {num_workers}"
            )
        splits = [self._cached(source) for source in self.sources]
        start = start_step * self.batch_size
        if len(splits) == 1:
            references = self._references(splits, 0, start + worker, num_workers)
        else:
            references = self._mixed(splits, start).shard(num_workers, worker)
            references = references.batch(RECORD_BLOCK_SIZE)
        crops = [
            functools.partial(self._augmentation(source).square, _derived_seed(self.seed, index))
            for index, source in enumerate(self.sources)
        ]
        loader = Loader(splits, crops, self._side, self.tokenizer, self.decoder)
        batches = loader.load(references)
        batches = batches.rebatch(self.batch_size // num_workers, drop_remainder=True)
        if self.tokenizer is not None and self.mask_probability is not None:
            shape = (self.batch_size, math.prod(self.tokenizer.grid))
            draw = functools.partial(draw_mask_of_step, shape, self.mask_probability)
            masks = self._drawn(draw, start_step, worker, num_workers)
            batches = tf.data.Dataset.zip(batches, masks).map(
                lambda batch, masked: ({"tokens": batch[0], "masked": masked}, batch[1])
            )
        if self.tokenizer is not None and self.label_dropout is not None:
            draw = functools.partial(draw_dropped_of_step, self.batch_size, self.label_dropout)
            drawn = self._drawn(draw, start_step, worker, num_workers)
            batches = tf.data.Dataset.zip(batches, drawn).map(
                lambda batch, dropped: (
                    {"tokens": batch[0], "labels": batch[1], "dropped": dropped},
                    batch[1],
                )
            )
        if not self.labels:
            batches = batches.map(lambda inputs, labels: inputs)
        return batches.prefetch(tf.data.AUTOTUNE)

    @property
    def _side(self) -> int:
        """Side of the images in pixels."""
        if self.tokenizer is not None:
            return size_of_images(self.tokenizer)
        assert self.image_size is not None
        return self.image_size

    def _drawn(
        self, draw: Callable[[int, tf.Tensor], Any], start_step: int, worker: int, num_workers: int
    ) -> tf.data.Dataset:
        """What `draw` makes of seed and step for every batch: a worker's share of it."""
        seed = _derived_seed(self.seed, len(self.sources))
        return tf.data.Dataset.range(start_step, ENDLESS).map(
            lambda step: draw(seed, step)[worker::num_workers]
        )

    def _augmentation(self, source: WeightedSource) -> Augmentation:
        return augmentations.get(source.augmentation or self.augmentation)

    def _cached(self, source: WeightedSource) -> Split:
        """The images of a source, or their tokens if there is a cache."""
        if self.cache is None or self.tokenizer is None:
            return source.split
        tokens = tokenize(source.split, self.tokenizer, decoder=self.decoder, cache=self.cache)
        labels = tokens.labels if source.split.labeled else None
        return ArraySplit(source.split.name, tokens.tokens, labels)

    def _references(
        self, splits: Sequence[Split], index: int, start: int, step: int
    ) -> tf.data.Dataset:
        """Blocks of shuffled references of one source, as `Loader.load` takes them."""
        blocks = splits[index].shuffled(_derived_seed(self.seed, index), start, step)
        firsts = tf.data.Dataset.range(start, ENDLESS, step * RECORD_BLOCK_SIZE)
        return tf.data.Dataset.zip(blocks, firsts).map(
            lambda block, first: {
                **block,
                "split": tf.fill([RECORD_BLOCK_SIZE], index),
                "position": first + step * tf.range(RECORD_BLOCK_SIZE, dtype=tf.int64),
            }
        )

    def _mixed(self, splits: Sequence[Split], start: int) -> tf.data.Dataset:
        """References one by one, each from a source that is drawn by weight."""
        weights = np.array([source.weight for source in self.sources])

        def choices(block: int) -> np.ndarray:
            generator = np.random.default_rng([self.seed, block])
            return generator.choice(len(weights), CHOICE_BLOCK_SIZE, p=weights / weights.sum())

        first_block, skipped = divmod(start, CHOICE_BLOCK_SIZE)
        starts = np.bincount(choices(first_block)[:skipped], minlength=len(weights))
        for block in range(first_block):
            starts += np.bincount(choices(block), minlength=len(weights))
        chosen = tf.data.Dataset.range(first_block, ENDLESS).map(
            lambda block: tf.ensure_shape(
                tf.numpy_function(choices, [block], tf.int64, stateful=False), [CHOICE_BLOCK_SIZE]
            )
        )
        references = [
            self._references(splits, index, int(count), 1).unbatch()
            for index, count in enumerate(starts)
        ]
        return tf.data.Dataset.choose_from_datasets(
            references, chosen.unbatch().skip(skipped), stop_on_empty_dataset=False
        )


def _derived_seed(seed: int, index: int) -> int:
    """The seed of the source at `index`."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint32)[0])
