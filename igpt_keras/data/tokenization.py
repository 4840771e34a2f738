"""Whole splits as pixels or tokens in memory, with a cache of tokens on disk."""

import hashlib
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from igpt_keras.atomic import atomic_path
from igpt_keras.data.augmentation import augmentations
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.data.labeled import LabeledImages, LabeledTokens
from igpt_keras.data.loader import Loader, check_augmentation, no_good_image, size_of_images
from igpt_keras.data.splits import RECORD_BLOCK_SIZE, Split
from igpt_keras.disk_space import create_array
from igpt_keras.errors import InputError
from igpt_keras.json_files import read_json, write_json
from igpt_keras.stages import stage
from igpt_keras.tokenizers import ImageTokenizer
from igpt_keras.wording import plural

# The last file that is written into the folder of cached tokens.
CACHE_FILE = "about.json"


def tokenize(
    split: Split,
    tokenizer: ImageTokenizer,
    *,
    augmentation: str = "none",
    decoder: ImageDecoder | None = None,
    cache: str | os.PathLike | None = None,
) -> LabeledTokens:
    """Returns the tokens of all images of a split, in order.

    Args:
        split: The images.
        tokenizer: A tokenizer with an image size R.
        augmentation: The augmentation whose evaluation crops the images: for "imagenet" the
            center of the image with a shorter side of 224 pixels, else the center square. The
            crop is then averaged by area to R × R.
        decoder: Keeps a record of bad images; by default, the first one is an error.
        cache: Folder that keeps the tokens, to be found again while the images, the tokenizer
            and the augmentation stay the same.

    Raises:
        InputError: An image cannot be read, or the tokenizer has no image size.

    Example:
        ```python
        from igpt_keras import ColorPalette
        from igpt_keras.data import open_data, read_images, tokenize

        data = open_data("digits")
        palette = ColorPalette.fit(read_images(data.train, image_size=8).images, num_colors=8)
        tokenize(data.test, palette).tokens  # int32 [360, 64]
        ```
    """
    size_of_images(tokenizer)
    decoder = decoder or ImageDecoder()
    shape = (split.num_examples, math.prod(tokenizer.grid))
    if cache is None:
        tokens = np.empty(shape, np.int32)
        labels = _tokenize_into(tokens, split, tokenizer, augmentation, decoder)
        return LabeledTokens(tokens[: len(labels)], labels)
    key = _cache_key(split, tokenizer, augmentation, decoder)
    folder = pathlib.Path(cache, key).expanduser()
    if not folder.is_dir():
        own = ImageDecoder(decoder.skip_bad_images)
        dtype = np.uint16 if tokenizer.vocabulary_size <= 1 << 16 else np.int32
        with atomic_path(folder, overwrite=True, marker=CACHE_FILE) as partial:
            partial.mkdir()
            tokens = create_array(partial / "tokens.npy", dtype, shape)
            labels = _tokenize_into(tokens, split, tokenizer, augmentation, own)
            tokens.flush()
            np.save(partial / "labels.npy", labels)
            about = {"split": split.name, "image_size": tokenizer.image_size, "bad": own.bad}
            write_json(partial / CACHE_FILE, about)
    decoder.bad.update(read_json(folder / CACHE_FILE)["bad"])
    labels = np.load(folder / "labels.npy")
    return LabeledTokens(np.load(folder / "tokens.npy", mmap_mode="r")[: len(labels)], labels)


def read_images(
    split: Split,
    image_size: int,
    *,
    augmentation: str = "none",
    decoder: ImageDecoder | None = None,
    start: int = 0,
    limit: int | None = None,
    seed: int | None = None,
) -> LabeledImages:
    """Returns the images of a split as pixels.

    Args:
        split: The images.
        image_size: Side R that they are resized to, in pixels.
        augmentation: As for `tokenize`.
        decoder: As for `tokenize`.
        start: Number of images to leave out at the beginning.
        limit: Maximum number of images.
        seed: Determines a random choice and order; None for the first images in order.

    Returns:
        Images uint8 [N, R, R, 3] and their labels.

    Raises:
        InputError: An image cannot be read, or `limit` is less than 1.

    Example:
        ```python
        from igpt_keras.data import open_data, read_images

        images = read_images(open_data("digits").train, image_size=8, limit=100, seed=0)
        images.images.shape  # (100, 8, 8, 3)
        ```
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    left = split.num_examples - start
    limit = left if limit is None else min(limit, left)
    references = split.in_order(start) if seed is None else split.shuffled(seed, start)
    references = references.unbatch().take(limit).batch(RECORD_BLOCK_SIZE)
    with stage(f"reading {plural(limit, 'image')} of {split.name}"):
        blocks = list(_load(split, references, image_size, None, augmentation, decoder))
    return LabeledImages(
        np.concatenate([images for images, _, _ in blocks]),
        np.concatenate([labels for _, labels, _ in blocks]),
    )


def image_batches(
    split: Split,
    image_size: int,
    *,
    augmentation: str = "none",
    decoder: ImageDecoder | None = None,
) -> Iterator[np.ndarray]:
    """Yields the images of a split in order, a few at a time, where not all fit into memory.

    Args:
        split: The images.
        image_size: As for `read_images`.
        augmentation: As for `tokenize`.
        decoder: As for `tokenize`.

    Yields:
        uint8 [B, R, R, 3], B at most 32; less, or 0, where bad images are skipped.

    Raises:
        InputError: An image cannot be read.
    """
    for images, _, _ in _load(split, split.in_order(), image_size, None, augmentation, decoder):
        yield images


class TokenBlock(NamedTuple):
    """Tokens of some images of a split.

    Attributes:
        tokens: int32 [B, n].
        labels: int32 [B]; -1 for images without labels.
        ids: string [B], names of the images in their data set.
    """

    tokens: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


def token_blocks(
    split: Split,
    tokenizer: ImageTokenizer,
    start: int,
    stop: int,
    *,
    augmentation: str = "none",
    decoder: ImageDecoder | None = None,
) -> Iterator[TokenBlock]:
    """Yields the tokens of a section of a split, in order, without keeping them.

    Every block goes through the tokenizer at once. Where `start` is a multiple of
    `RECORD_BLOCK_SIZE`, the blocks are those of `tokenize`, so that the tokens are the same.

    Args:
        split: The images.
        tokenizer: As for `tokenize`.
        start: Index of the section's first image.
        stop: Index after its last one.
        augmentation: As for `tokenize`.
        decoder: As for `tokenize`.

    Raises:
        InputError: An image cannot be read.
    """
    references = split.in_order(start, stop)
    size = size_of_images(tokenizer)
    for block in _blocks(split, references, size, tokenizer, augmentation, decoder):
        yield TokenBlock(*block)


def _tokenize_into(
    tokens: np.ndarray,
    split: Split,
    tokenizer: ImageTokenizer,
    augmentation: str,
    decoder: ImageDecoder,
) -> np.ndarray:
    """Writes the tokens of all good images into `tokens`; returns the images' labels."""
    labels = []
    count = 0
    size = size_of_images(tokenizer)
    with stage(f"tokenizing {plural(split.num_examples, 'image')} of {split.name}"):
        for values, block_labels, _ in _load(
            split, split.in_order(), size, tokenizer, augmentation, decoder
        ):
            tokens[count : count + len(values)] = values
            count += len(values)
            labels.append(block_labels)
    return np.concatenate(labels)


def _load(split: Split, *arguments: Any) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Does what `_blocks` does, where at least one image must be good."""
    empty = True
    for block in _blocks(split, *arguments):
        empty = empty and not len(block[1])
        yield block
    if empty:
        raise no_good_image(split)


def _blocks(
    split: Split,
    references: tf.data.Dataset,
    image_size: int,
    tokenizer: ImageTokenizer | None,
    augmentation: str,
    decoder: ImageDecoder | None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields blocks as `Loader.load_with_ids` does, cropped as in evaluation."""
    check_augmentation(split, augmentation)
    decoder = decoder or ImageDecoder()
    evaluate = augmentations.get(augmentation).evaluate
    loader = Loader([split], [lambda image, _: evaluate(image)], image_size, tokenizer, decoder)
    references = references.map(
        lambda block: {
            **block,
            "split": tf.zeros_like(block["label"]),
            "position": tf.zeros_like(block["index"]),
        }
    )
    with decoder.restore_errors():
        blocks: Any = loader.load_with_ids(references).prefetch(2).as_numpy_iterator()
        yield from blocks


def _cache_key(
    split: Split, tokenizer: ImageTokenizer, augmentation: str, decoder: ImageDecoder
) -> str:
    settings = (
        *(split.fingerprint(), tokenizer.fingerprint(), tokenizer.image_size),
        *(augmentation, decoder.skip_bad_images),
    )
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:32]
