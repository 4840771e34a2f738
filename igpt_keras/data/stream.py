"""From splits of data sets to tokens: a stream to train on, or all of them in order."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from igpt_keras.atomic import atomic_path
from igpt_keras.data.augmentation import Augmentation, area_squares, augmentation
from igpt_keras.data.data_set import WeightedSource
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.data.labeled import LabeledImages, LabeledTokens
from igpt_keras.data.splits import BLOCK_SIZE, ENDLESS, ArraySplit, Split
from igpt_keras.errors import InputError
from igpt_keras.models.masking import draw_mask_of_step
from igpt_keras.tokenizers.color_palette import ColorPalette

# Choices of a mixture are drawn so many at a time.
CHOICES = 4096
CACHE_FILE = "about.json"


@dataclasses.dataclass(frozen=True)
class TrainingStream:
    """Encoded, augmented batches without end, the same for the same seed.

    Every epoch has another order, and every image in it another augmentation. What
    batch `step` holds depends on neither `start_step` nor the number of workers.
    (Bad images that are skipped move those behind them up; a stream that starts
    later does not know of those before.)

    Attributes:
        sources: what is mixed.
        palette: tokenizes the pixels.
        image_size: R, n = R².
        batch_size: images in a global batch.
        augmentation: of sources that have none of their own.
        seed: of order, mixture and augmentation.
        labels: whether batches are (inputs, labels).
        mask_probability: None, and inputs are tokens; or, for BERT, of each position to be in
            M, and inputs are `{"tokens": tokens, "masked": masked}`.
        decoder: keeps account of bad images.
        cache: folder of tokens, or None to decode at every epoch; see `tokenize`.
    """

    sources: Sequence[WeightedSource]
    palette: ColorPalette
    image_size: int
    batch_size: int
    augmentation: str = "none"
    seed: int = 0
    labels: bool = False
    mask_probability: float | None = None
    decoder: ImageDecoder = dataclasses.field(default_factory=ImageDecoder)
    cache: str | os.PathLike | None = None

    def __post_init__(self):
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")
        for source in self.sources:
            if self.cache is not None and self._augmentation(source).train:
                raise InputError(
                    f"cache keeps images without augmentation, but {source.split.name} has "
                    f"augmentation={source.augmentation or self.augmentation}"
                )

    @property
    def steps_per_epoch(self) -> int:
        """Batches after which as many images were seen as there are, rounded up."""
        total = sum(source.split.num_examples for source in self.sources)
        return -(-total // self.batch_size)

    def dataset(
        self, start_step: int = 0, worker: int = 0, num_workers: int = 1
    ) -> tf.data.Dataset:
        """The batches from `start_step` on.

        Args:
            start_step: how many batches to leave out.
            worker: which of `num_workers` equal shares of every batch to give.
            num_workers: must divide `batch_size`.

        Returns: inputs, or (inputs, labels int32 [B]); tokens int32 [B, n], masked bool
        [B, n], B = `batch_size` / `num_workers`.
        """
        if num_workers < 1 or self.batch_size % num_workers:
            raise InputError(
                f"num_workers must divide batch_size={self.batch_size}, got {num_workers}"
            )
        splits = [self._split(source) for source in self.sources]
        start = start_step * self.batch_size
        if len(splits) == 1:
            items = self._items(splits, 0, start + worker, num_workers)
        else:
            items = self._mixed(splits, start).shard(num_workers, worker).batch(BLOCK_SIZE)
        crops = [
            _crop(self._augmentation(source), _derived(self.seed, index))
            for index, source in enumerate(self.sources)
        ]
        loader = Loader(splits, crops, self.image_size, self.palette, self.decoder)
        batches = loader.load(items).rebatch(self.batch_size // num_workers, drop_remainder=True)
        if self.mask_probability is not None:
            masks = self._masks(start_step, worker, num_workers)
            batches = tf.data.Dataset.zip(batches, masks).map(
                lambda batch, masked: ({"tokens": batch[0], "masked": masked}, batch[1])
            )
        if not self.labels:
            batches = batches.map(lambda inputs, labels: inputs)
        return batches.prefetch(tf.data.AUTOTUNE)

    def _masks(self, start_step: int, worker: int, num_workers: int) -> tf.data.Dataset:
        """The mask M of a worker's share of every batch; the seed and the step decide it."""
        seed = _derived(self.seed, len(self.sources))
        shape = (self.batch_size, self.image_size**2)

        def mask(step):
            masked = draw_mask_of_step(shape, self.mask_probability, seed, step)
            return masked[worker::num_workers]

        return tf.data.Dataset.range(start_step, ENDLESS).map(mask)

    def _augmentation(self, source: WeightedSource) -> Augmentation:
        return augmentation(source.augmentation or self.augmentation)

    def _split(self, source: WeightedSource) -> Split:
        """The images of a source, or its tokens where they are cached."""
        if self.cache is None:
            return source.split
        tokenized = tokenize(
            source.split,
            self.palette,
            self.image_size,
            decoder=self.decoder,
            cache=self.cache,
        )
        return ArraySplit(source.split.name, tokenized.tokens, tokenized.labels)

    def _items(self, splits: list[Split], index: int, start: int, step: int) -> tf.data.Dataset:
        """Shuffled items of one source, which know it and their position in the stream."""
        items = splits[index].shuffled(_derived(self.seed, index), start, step)
        firsts = tf.data.Dataset.range(start, ENDLESS, step * BLOCK_SIZE)
        return tf.data.Dataset.zip(items, firsts).map(
            lambda chunk, first: {
                **chunk,
                "source": tf.fill([BLOCK_SIZE], index),
                "position": first + step * tf.range(BLOCK_SIZE, dtype=tf.int64),
            }
        )

    def _mixed(self, splits: list[Split], start: int) -> tf.data.Dataset:
        """Items of all sources, each drawn from one of them by weight."""
        weights = np.array([source.weight for source in self.sources])

        def choices(chunk):
            generator = np.random.default_rng([self.seed, chunk])
            return generator.choice(len(weights), CHOICES, p=weights / weights.sum())

        starts = np.zeros(len(weights), np.int64)
        for chunk in range(start // CHOICES + 1):
            before = choices(chunk)[: start - chunk * CHOICES]
            starts += np.bincount(before, minlength=len(weights))
        choice = tf.data.Dataset.range(start // CHOICES, ENDLESS)
        choice = choice.map(
            lambda chunk: tf.ensure_shape(
                tf.numpy_function(choices, [chunk], tf.int64, stateful=False), [CHOICES]
            )
        )
        items = [
            self._items(splits, index, int(first), 1).unbatch()
            for index, first in enumerate(starts)
        ]
        return tf.data.Dataset.choose_from_datasets(
            items, choice.unbatch().skip(start % CHOICES), stop_on_empty_dataset=False
        )


@dataclasses.dataclass
class Loader:
    """Makes examples of items: reads, decodes, crops, resizes and tokenizes.

    Attributes:
        splits: where items come from; `source` counts them.
        crops: of each split, an image and its position in the stream to a square.
        image_size: R, n = R².
        palette: tokenizes the pixels; None to leave them.
        decoder: keeps account of bad images.
    """

    splits: Sequence[Split]
    crops: Sequence[Callable[[np.ndarray, int], np.ndarray]]
    image_size: int
    palette: ColorPalette | None
    decoder: ImageDecoder

    def __post_init__(self):
        self._bad = [set() for _ in self.splits]

    def load(self, items: tf.data.Dataset) -> tf.data.Dataset:
        """Chunks of items to chunks of examples, of which those of bad images are missing.

        Args:
            items: as of `Split`, with `source` int32 [K] and `position` int64 [K].

        Returns: (tokens int32 [K, n] or images uint8 [K, R, R, 3], labels int32 [K]).
        """
        if self.palette is None:
            dtype, shape = tf.uint8, (self.image_size, self.image_size, 3)
        else:
            dtype, shape = tf.int32, (self.image_size**2,)
        columns = ("source", "position", "index", "content", "label", "name")

        def load(chunk):
            values, labels = tf.numpy_function(
                lambda *columns: self._load(zip(*columns, strict=True)),
                [chunk[column] for column in columns],
                [dtype, tf.int32],
                stateful=False,
            )
            return tf.ensure_shape(values, [None, *shape]), tf.ensure_shape(labels, [None])

        return items.map(load, num_parallel_calls=tf.data.AUTOTUNE)

    def _load(self, items):
        images, labels = [], []
        with self.decoder.noting_errors():
            for source, position, *item in items:
                record = self.splits[source].record(*item)
                image = record.image
                if isinstance(image, bytes):
                    image = self.decoder.decode(image, record.name)
                if image is None:
                    self._check_any_good(source, record.name)
                    continue
                # Tokens from a cache stay as they are.
                cropped = self.crops[source](image, position) if image.ndim == 3 else image
                images.append(cropped)
                labels.append(record.label)
        return self._tokenized(images), np.array(labels, np.int32)

    def _check_any_good(self, source, name):
        """Raises an `InputError` if bad images are all there is: the stream would not end."""
        split, bad = self.splits[source], self._bad[source]
        bad.add(name)
        if len(bad) == split.num_examples:
            raise InputError(f"{split.name} holds no image that can be read")

    def _tokenized(self, images):
        if images and images[0].ndim == 1:
            return np.stack(images).astype(np.int32)
        squares = area_squares(images, self.image_size)
        if self.palette is None:
            return squares
        return self.palette.tokenize(squares)


def tokenize(
    split: Split,
    palette: ColorPalette,
    image_size: int,
    *,
    augmentation_name: str = "none",
    decoder: ImageDecoder | None = None,
    cache: str | os.PathLike | None = None,
) -> LabeledTokens:
    """All images of `split` in order, as the evaluation of an augmentation crops them.

    Args:
        split: the images.
        palette: tokenizes the pixels.
        image_size: R, n = R².
        augmentation_name: whose evaluation: for "imagenet" shorter side 224 and center
            crop, else the center square; then area-averaged to `image_size`.
        decoder: keeps account of bad images.
        cache: a folder in which the tokens are kept, and found again as long as
            images, palette and size stay the same.

    Returns: tokens int32 [N, n], or mapped from the cache, uint16 where they fit; and
    labels int32 [N].

    Raises:
        InputError: an image that cannot be read.
    """
    decoder = decoder or ImageDecoder()
    shape = (split.num_examples, image_size**2)
    if cache is None:
        tokens = np.empty(shape, np.int32)
        labels = _tokenize_into(tokens, split, palette, image_size, augmentation_name, decoder)
        return LabeledTokens(tokens[: len(labels)], labels)
    folder = pathlib.Path(cache, _cache_key(split, palette, image_size, augmentation_name, decoder))
    if not folder.is_dir():
        own = ImageDecoder(decoder.skip_bad_images)
        dtype = np.uint16 if palette.vocabulary_size <= 1 << 16 else np.int32
        with atomic_path(folder, overwrite=True, marker=CACHE_FILE) as partial:
            partial.mkdir()
            tokens = np.lib.format.open_memmap(partial / "tokens.npy", "w+", dtype, shape)
            labels = _tokenize_into(tokens, split, palette, image_size, augmentation_name, own)
            tokens.flush()
            np.save(partial / "labels.npy", labels)
            about = {"split": split.name, "image_size": image_size, "bad": own.bad}
            (partial / CACHE_FILE).write_text(json.dumps(about, indent=2) + "\n")
    decoder.bad.update(json.loads((folder / CACHE_FILE).read_text())["bad"])
    labels = np.load(folder / "labels.npy")
    return LabeledTokens(np.load(folder / "tokens.npy", mmap_mode="r")[: len(labels)], labels)


def read_images(
    split: Split,
    image_size: int,
    *,
    augmentation_name: str = "none",
    decoder: ImageDecoder | None = None,
    limit: int | None = None,
    seed: int | None = None,
) -> LabeledImages:
    """As `tokenize`, but pixels: uint8 [N, R, R, 3].

    Args:
        split, image_size, augmentation_name, decoder: as of `tokenize`.
        limit: at most so many images.
        seed: of which images these are; None for the first ones.
    """
    limit = split.num_examples if limit is None else min(limit, split.num_examples)
    items = split.in_order() if seed is None else split.shuffled(seed)
    items = items.unbatch().take(limit).batch(BLOCK_SIZE)
    batches = list(_evaluated(split, items, None, image_size, augmentation_name, decoder))
    return LabeledImages(
        np.concatenate([images for images, _ in batches]),
        np.concatenate([labels for _, labels in batches]),
    )


def _tokenize_into(tokens, split, palette, image_size, augmentation_name, decoder) -> np.ndarray:
    """Writes the tokens of all images that can be read; returns their labels."""
    labels = []
    count = 0
    for values, of_values in _evaluated(
        split, split.in_order(), palette, image_size, augmentation_name, decoder
    ):
        tokens[count : count + len(values)] = values
        count += len(values)
        labels.append(of_values)
    return np.concatenate(labels)


def _evaluated(split, items, palette, image_size, augmentation_name, decoder):
    """Chunks of examples, see `Loader`, as evaluation sees them."""
    decoder = decoder or ImageDecoder()
    crop = _crop(Augmentation(augmentation(augmentation_name).evaluate))
    loader = Loader([split], [crop], image_size, palette, decoder)
    items = items.map(
        lambda chunk: {
            **chunk,
            "source": tf.zeros_like(chunk["label"]),
            "position": tf.zeros_like(chunk["index"]),
        }
    )
    empty = True
    with decoder.naming_errors():
        for values, labels in loader.load(items).prefetch(2).as_numpy_iterator():
            empty = empty and not len(labels)
            yield values, labels
    if empty:
        raise InputError(f"{split.name} holds no image that can be read")


def _crop(chosen: Augmentation, seed: int = 0) -> Callable[[np.ndarray, int], np.ndarray]:
    """An image and its position in the stream to a square."""
    if chosen.train is None:
        return lambda image, position: chosen.evaluate(image)
    # A generator that starts anywhere at once: each image has its own.
    return lambda image, position: chosen.train(
        image, np.random.Generator(np.random.Philox(key=np.array([seed, position], np.uint64)))
    )


def _derived(seed: int, index: int) -> int:
    """The seed of source `index`."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint32)[0])


def _cache_key(split, palette, image_size, augmentation_name, decoder) -> str:
    digest = hashlib.sha256(palette.fingerprint().encode())
    settings = (split.fingerprint(), image_size, augmentation_name, decoder.skip_bad_images)
    digest.update(repr(settings).encode())
    return digest.hexdigest()[:32]
