"""From parts of data sets to tokens: a stream to train on, or all of them in order."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from igpt_keras.atomic import atomic_path
from igpt_keras.data.augmentation import augmentation
from igpt_keras.data.decoding import Decoder
from igpt_keras.data.open import Ingredient
from igpt_keras.data.parts import ArrayPart, Part
from igpt_keras.data.splits import LabelledImages, LabelledTokens
from igpt_keras.errors import InputError
from igpt_keras.palette import ColorPalette

BATCH = 256
# Choices of a mixture are drawn so many at a time.
CHUNK = 4096
MAX_POSITION = np.iinfo(np.int64).max
CACHE_FILE = "about.json"


@dataclasses.dataclass(frozen=True)
class TrainingStream:
    """Encoded, augmented batches without end, the same for the same seed.

    Every epoch has another order, and every image in it another augmentation. What
    batch `step` holds depends on neither `start_step` nor the number of workers.
    (Bad images that are skipped move those behind them up; a stream that starts
    later does not know of those before.)

    Attributes:
        ingredients: what is mixed.
        palette: encodes the pixels.
        image_size: R, n = R².
        batch_size: images in a global batch.
        augmentation: of ingredients that have none of their own.
        seed: of order, mixture and augmentation.
        labels: whether batches are (tokens, labels).
        decoder: keeps account of bad images.
        cache: folder of encoded tokens, or None to decode at every epoch; see `encode`.
    """

    ingredients: Sequence[Ingredient]
    palette: ColorPalette
    image_size: int
    batch_size: int
    augmentation: str = "none"
    seed: int = 0
    labels: bool = False
    decoder: Decoder = dataclasses.field(default_factory=Decoder)
    cache: str | os.PathLike | None = None

    def __post_init__(self):
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")
        for ingredient in self.ingredients:
            if self.cache is not None and self._augmentation(ingredient).random:
                raise InputError(
                    f"cache keeps images without augmentation, but {ingredient.part.name} has "
                    f"augmentation={ingredient.augmentation or self.augmentation}"
                )

    @property
    def steps_per_epoch(self) -> int:
        """Batches after which as many images were seen as there are, rounded up."""
        total = sum(ingredient.part.num_examples for ingredient in self.ingredients)
        return -(-total // self.batch_size)

    def dataset(
        self, start_step: int = 0, worker: int = 0, num_workers: int = 1
    ) -> tf.data.Dataset:
        """The batches from `start_step` on.

        Args:
            start_step: how many batches to leave out.
            worker: which of `num_workers` equal shares of every batch to give.
            num_workers: must divide `batch_size`.

        Returns: tokens int32 [B, n] with B = `batch_size` / `num_workers`, or
        (tokens, labels int32 [B]).
        """
        if num_workers < 1 or self.batch_size % num_workers:
            raise InputError(
                f"num_workers must divide batch_size={self.batch_size}, got {num_workers}"
            )
        start = start_step * self.batch_size
        if len(self.ingredients) == 1:
            examples = self._examples(0, start + worker, num_workers)
        else:
            examples = self._mixed(start).shard(num_workers, worker)
        batches = examples.batch(self.batch_size // num_workers, drop_remainder=True)
        return batches.map(self._encode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(
            tf.data.AUTOTUNE
        )

    def _augmentation(self, ingredient):
        return augmentation(ingredient.augmentation or self.augmentation)

    def _examples(self, index: int, start: int, step: int) -> tf.data.Dataset:
        """Examples of one ingredient: images uint8 [R, R, 3] or, cached, tokens [n]."""
        ingredient = self.ingredients[index]
        seed = _derived(self.seed, index)
        if self.cache is not None:
            encoded = encode(
                ingredient.part,
                self.palette,
                self.image_size,
                decoder=self.decoder,
                cache=self.cache,
            )
            cached = ArrayPart(ingredient.part.name, encoded.tokens, encoded.labels)
            return cached.shuffled(seed, start, step).map(_without_name)
        train = self._augmentation(ingredient).train
        records = ingredient.part.shuffled(seed, start, step)
        positions = tf.data.Dataset.range(start, MAX_POSITION, step)
        records = tf.data.Dataset.zip(records, positions).map(
            lambda record, position: {**record, "position": position}
        )

        def augmented(record):
            example_seed = tf.random.experimental.stateless_fold_in(
                tf.constant([seed, 1], tf.int64), record["position"]
            )
            image = train(record["image"], self.image_size, example_seed)
            shape = (self.image_size, self.image_size, 3)
            return _without_name({**record, "image": tf.ensure_shape(image, shape)})

        decoded = self.decoder.decoded(records)
        return decoded.map(augmented, num_parallel_calls=tf.data.AUTOTUNE)

    def _mixed(self, start: int) -> tf.data.Dataset:
        """Examples of all ingredients, each drawn from one of them by weight."""
        weights = np.array([ingredient.weight for ingredient in self.ingredients])
        edges = tf.constant(np.cumsum(weights) / weights.sum(), tf.float64)

        def choices(chunk):
            seed = tf.stack([tf.constant(self.seed, tf.int64), chunk])
            drawn = tf.random.stateless_uniform([CHUNK], seed, dtype=tf.float64)
            return tf.minimum(tf.searchsorted(edges, drawn, side="right"), len(weights) - 1)

        starts = np.zeros(len(weights), np.int64)
        for chunk in range(start // CHUNK + 1):
            until = min(start - chunk * CHUNK, CHUNK)
            starts += np.bincount(choices(chunk)[:until], minlength=len(weights))
        choice = tf.data.Dataset.range(start // CHUNK, MAX_POSITION).map(choices).unbatch()
        choice = choice.map(lambda index: tf.cast(index, tf.int64)).skip(start % CHUNK)
        parts = [self._examples(index, int(first), 1) for index, first in enumerate(starts)]
        return tf.data.Dataset.choose_from_datasets(parts, choice, stop_on_empty_dataset=True)

    def _encode(self, batch):
        tokens = batch["image"]
        if self.cache is None:
            tokens = _quantized(tokens, self.palette)
        return (tokens, batch["label"]) if self.labels else tokens


def encode(
    part: Part,
    palette: ColorPalette,
    image_size: int,
    *,
    augmentation_name: str = "none",
    decoder: Decoder | None = None,
    cache: str | os.PathLike | None = None,
) -> LabelledTokens:
    """All images of `part` in order, as the evaluation of an augmentation crops them.

    Args:
        part: the images.
        palette: encodes the pixels.
        image_size: R, n = R².
        augmentation_name: whose evaluation: for "imagenet" shorter side 224 and centre
            crop, else the centre square; then area-averaged to `image_size`.
        decoder: keeps account of bad images.
        cache: a folder in which the tokens are kept, and found again as long as
            images, palette and size stay the same.

    Returns: tokens int32 [N, n], mapped from disk if cached, and labels int32 [N].

    Raises:
        InputError: an image that cannot be read.
    """
    decoder = decoder or Decoder()
    if cache is None:
        return _encode_now(part, palette, image_size, augmentation_name, decoder)
    folder = pathlib.Path(cache, _cache_key(part, palette, image_size, augmentation_name, decoder))
    if not folder.is_dir():
        encoded = _encode_now(part, palette, image_size, augmentation_name, decoder)
        with atomic_path(folder, overwrite=True, marker=CACHE_FILE) as partial:
            partial.mkdir()
            np.save(partial / "tokens.npy", encoded.tokens)
            np.save(partial / "labels.npy", encoded.labels)
            about = {"part": part.name, "image_size": image_size, "bad": decoder.bad}
            (partial / CACHE_FILE).write_text(json.dumps(about, indent=2) + "\n")
    return LabelledTokens(
        np.load(folder / "tokens.npy", mmap_mode="r"), np.load(folder / "labels.npy")
    )


def read_images(
    part: Part,
    image_size: int,
    *,
    augmentation_name: str = "none",
    decoder: Decoder | None = None,
    limit: int | None = None,
    seed: int | None = None,
) -> LabelledImages:
    """As `encode`, but pixels: uint8 [N, R, R, 3].

    Args:
        part, image_size, augmentation_name, decoder: as of `encode`.
        limit: at most so many images.
        seed: of which images these are; None for the first ones.
    """
    decoder = decoder or Decoder()
    limit = part.num_examples if limit is None else min(limit, part.num_examples)
    records = part.in_order() if seed is None else part.shuffled(seed)
    batches = list(_evaluated(part, records.take(limit), image_size, augmentation_name, decoder))
    return LabelledImages(
        np.concatenate([images for images, _ in batches]),
        np.concatenate([labels for _, labels in batches]),
    )


def _encode_now(part, palette, image_size, augmentation_name, decoder) -> LabelledTokens:
    tokens, labels = [], []
    for images, of_images in _evaluated(
        part, part.in_order(), image_size, augmentation_name, decoder
    ):
        tokens.append(palette.quantize(images).reshape(len(images), -1))
        labels.append(of_images)
    return LabelledTokens(np.concatenate(tokens), np.concatenate(labels))


def _evaluated(part, records, image_size, augmentation_name, decoder):
    """Batches (images uint8 [B, R, R, 3], labels int32 [B]) as evaluation sees them."""
    crop = augmentation(augmentation_name).evaluate

    def cropped(record):
        image = tf.ensure_shape(crop(record["image"], image_size), (image_size, image_size, 3))
        return image, record["label"]

    batches = decoder.decoded(records).map(cropped, num_parallel_calls=tf.data.AUTOTUNE)
    empty = True
    with decoder.naming_errors():
        for images, labels in batches.batch(BATCH).prefetch(2).as_numpy_iterator():
            empty = False
            yield images, labels
    if empty:
        raise InputError(f"{part.name} holds no image that can be read")


def _quantized(images, palette: ColorPalette):
    """Tokens int32 [B, R²] of images uint8 [B, R, R, 3], by `ColorPalette.quantize`."""
    batch, height, width, _ = images.shape
    tokens = tf.numpy_function(palette.quantize, [images], tf.int32, stateful=False)
    return tf.reshape(tokens, [batch, height * width])


def _without_name(record):
    return {"image": record["image"], "label": record["label"]}


def _derived(seed: int, index: int) -> int:
    """The seed of ingredient `index`."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint32)[0])


def _cache_key(part, palette, image_size, augmentation_name, decoder) -> str:
    digest = hashlib.sha256(palette.colors.tobytes())
    settings = (part.fingerprint(), image_size, augmentation_name, decoder.skip_bad_images)
    digest.update(repr(settings).encode())
    return digest.hexdigest()[:32]
