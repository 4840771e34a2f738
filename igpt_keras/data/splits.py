"""Splits of data sets: images and their labels, in order or shuffled without end."""

import abc
import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from igpt_keras.errors import InputError
from igpt_keras.tokenizers import ImageTokenizer

UNLABELED = -1
# Pipelines enter Python once for a block of records: entering it for each record would cost as
# much as decoding a small image.
RECORD_BLOCK_SIZE = 32
ENDLESS = np.iinfo(np.int64).max


class Record(NamedTuple):
    """An image as it is stored.

    Attributes:
        image: The bytes of an image file; or pixels uint8 [h, w, 3]; or tokens [n]; or None for
            a file that is not read.
        label: Its label; -1 if it has none.
        name: Name for error messages.
        image_id: Name of the image in its data set, which stays when that moves; None for `name`.
    """

    image: bytes | np.ndarray | None
    label: int
    name: str
    image_id: str | None = None


class Split(abc.ABC):
    """One split of a data set, such as its test images.

    The datasets that `in_order` and `shuffled` return hold references to records, in blocks of
    up to K = `RECORD_BLOCK_SIZE`: a dictionary of `index` int64 [K], `image_bytes` string [K],
    `label` int32 [K] and `name` string [K]. `record` maps one of the K references to its
    `Record`.

    Attributes:
        name: Name for error messages, such as "folder:photos, train".
        num_examples: Number of images.
        labeled: Whether the images have labels.
        tokenizer: The tokenizer whose tokens the records hold; None for records of images.
    """

    name: str
    num_examples: int
    labeled: bool
    tokenizer: ImageTokenizer | None = None

    @abc.abstractmethod
    def in_order(self, start: int = 0, stop: int | None = None) -> tf.data.Dataset:
        """Returns every reference once, always in the same order.

        Args:
            start: Number of references to leave out at the beginning.
            stop: Number of references up to the end; None for all.
        """

    @abc.abstractmethod
    def shuffled(self, seed: int, start: int = 0, step: int = 1) -> tf.data.Dataset:
        """Returns epoch after epoch without end, each in another order.

        Args:
            seed: Determines all orders.
            start: Number of references to skip at the beginning, to resume there.
            step: 1 for every reference, W for every W-th.
        """

    @abc.abstractmethod
    def record(self, index: int, image_bytes: bytes, label: int, name: bytes) -> Record:
        """Returns the record that a reference stands for.

        Raises:
            OSError: A file cannot be read.
            UnreadableFile: A file is too large, or not a regular file.
        """

    @abc.abstractmethod
    def hold_out(self, fraction: float, seed: int) -> "tuple[Split, Split]":
        """Returns disjoint splits for training and validation.

        Args:
            fraction: Fraction of the N images for validation: round(`fraction` · N), at
                least one.
            seed: Determines which images these are, unless the stored order is random.

        Raises:
            InputError: There are fewer than two images.
        """

    @abc.abstractmethod
    def joined(self, other: "Split") -> "Split":
        """Returns the images of this split and of another one of the same source."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Returns a digest that changes when the images, their order or their labels change.

        It is of contents and of names below a data set's folder: where that lies and when its
        files were written does not matter.
        """

    def __repr__(self) -> str:
        labels = "labeled" if self.labeled else "unlabeled"
        return f"<{type(self).__name__} {self.name!r}: {self.num_examples:,} images, {labels}>"


class IndexedSplit(Split):
    """A split whose records can be read at random: each epoch is a random permutation."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Record:
        """Returns the record at `index`, 0…`num_examples` - 1."""

    def record(self, index: int, image_bytes: bytes, label: int, name: bytes) -> Record:
        return self[index]

    def in_order(self, start: int = 0, stop: int | None = None) -> tf.data.Dataset:
        indices = tf.data.Dataset.range(start, self.num_examples if stop is None else stop)
        return indices.batch(RECORD_BLOCK_SIZE).map(_references)

    def shuffled(self, seed: int, start: int = 0, step: int = 1) -> tf.data.Dataset:
        @functools.lru_cache(maxsize=2)
        def order(epoch: int) -> np.ndarray:
            return np.random.default_rng([seed, epoch]).permutation(self.num_examples)

        def indices(positions: np.ndarray) -> np.ndarray:
            epochs, within = np.divmod(positions, self.num_examples)
            return np.concatenate([order(e)[within[epochs == e]] for e in np.unique(epochs)])

        def references(positions: tf.Tensor) -> dict[str, tf.Tensor]:
            index = tf.numpy_function(indices, [positions], tf.int64, stateful=False)
            return _references(tf.ensure_shape(index, [None]))

        return tf.data.Dataset.range(start, ENDLESS, step).batch(RECORD_BLOCK_SIZE).map(references)

    def hold_out(self, fraction: float, seed: int) -> "tuple[IndexedSplit, IndexedSplit]":
        count = held_out_count(self, fraction)
        order = np.random.default_rng(seed).permutation(self.num_examples)
        return (
            SubsetSplit(self.name, self, np.sort(order[count:])),
            SubsetSplit(f"{self.name} (held out)", self, np.sort(order[:count])),
        )

    def joined(self, other: "IndexedSplit") -> "IndexedSplit":
        return JoinedSplit(self, other)


class ArraySplit(IndexedSplit):
    """Pixels or tokens in memory, or mapped into it.

    Args:
        name: Name for error messages.
        images: uint8 [N, H, W, 3] (or 1 channel, gray), or tokens [N, n].
        labels: int [N], or None.

    Attributes:
        images: As given.
        labels: int32 [N], -1 for images without labels.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: Sequence[int] | np.ndarray | None = None,
    ):
        self.name = name
        self.num_examples = check_count(len(images), name)
        self.labeled = labels is not None
        self.images = images
        self.labels = check_labels(labels, self.num_examples)

    def __getitem__(self, index: int) -> Record:
        image = self.images[index]
        if image.ndim == 3:
            image = np.broadcast_to(image, (*image.shape[:2], 3))
        return Record(image, int(self.labels[index]), f"{self.name} #{index}", str(index))

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.labels.tobytes())
        digest.update(repr(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()


class SubsetSplit(IndexedSplit):
    """Some images of another split.

    Args:
        name: Name for error messages.
        split: The other split.
        indices: int [M], the indices of its images.
    """

    def __init__(self, name: str, split: IndexedSplit, indices: np.ndarray):
        self.name = name
        self.num_examples = check_count(len(indices), name)
        self.labeled = split.labeled
        self._split = split
        self._indices = np.asarray(indices, np.int64)

    def __getitem__(self, index: int) -> Record:
        return self._split[int(self._indices[index])]

    def fingerprint(self) -> str:
        return hashlib.sha256(
            self._split.fingerprint().encode() + self._indices.tobytes()
        ).hexdigest()


class JoinedSplit(IndexedSplit):
    """The images of two splits, those of `first` before those of `second`."""

    def __init__(self, first: IndexedSplit, second: IndexedSplit):
        self.name = f"{first.name} + {second.name}"
        self.num_examples = first.num_examples + second.num_examples
        self.labeled = first.labeled and second.labeled
        self._first, self._second = first, second

    def __getitem__(self, index: int) -> Record:
        if index < self._first.num_examples:
            return self._first[index]
        return self._second[index - self._first.num_examples]

    def fingerprint(self) -> str:
        digests = self._first.fingerprint() + self._second.fingerprint()
        return hashlib.sha256(digests.encode()).hexdigest()


def held_out_count(split: Split, fraction: float) -> int:
    """Returns how many images of `split` are held out; see `Split.hold_out`."""
    if split.num_examples < 2:
        raise InputError(
            f"{split.name} must have at least 2 images, one to train and one to validate on, got "
            f"{split.num_examples}"
        )
    return max(1, round(fraction * split.num_examples))


def check_labels(labels: Sequence[int] | np.ndarray | None, num_examples: int) -> np.ndarray:
    """Returns `labels` as int32 [N]; -1 everywhere for None.

    Raises:
        InputError: The shape is another one, or the labels are not integers from 0 on.
    """
    if labels is None:
        return np.full(num_examples, UNLABELED, np.int32)
    labels = np.asarray(labels)
    if labels.shape != (num_examples,):
        raise InputError(
            f"labels must have shape [{num_examples}], one for each image, got {list(labels.shape)}"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise InputError(f"labels must be integers from 0 on, got {labels.dtype}: {labels[:5]}…")
    return labels.astype(np.int32)


def check_count(num_examples: int, name: str) -> int:
    """Returns the number of images of a split.

    Raises:
        InputError: It is 0.
    """
    if not num_examples:
        raise InputError(f"{name} must have at least one image, got none")
    return num_examples


def _references(index: tf.Tensor) -> dict[str, tf.Tensor]:
    """References to records that need nothing but their indices."""
    empty = tf.fill(tf.shape(index), "")
    label = tf.fill(tf.shape(index), UNLABELED)
    return {"index": index, "image_bytes": empty, "label": label, "name": empty}
