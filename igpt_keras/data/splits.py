"""Splits of data sets: images and their labels, in order or shuffled without end."""

import abc
import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from igpt_keras.errors import InputError

UNLABELED = -1
# Records go through the pipeline so many at a time: to enter Python once for each would cost
# as much as to decode a small image.
BLOCK_SIZE = 32
ENDLESS = np.iinfo(np.int64).max


class Record(NamedTuple):
    """An image as it is kept.

    Attributes:
        image: an encoded image; or pixels uint8 [h, w, 3]; or tokens [n].
        label: -1 where there is none.
        name: for messages.
    """

    image: bytes | np.ndarray
    label: int
    name: str


class Split(abc.ABC):
    """One split of a data set.

    Its datasets hold items, in chunks of up to `BLOCK_SIZE` = K: a dictionary of `index` int64
    [K], `content` string [K], `label` int32 [K] and `name` string [K], of which `record`
    makes a `Record` each.

    Attributes:
        name: for messages, such as "folder:photos, train".
        num_examples: how many images it holds.
        labeled: whether its images have labels.
    """

    name: str
    num_examples: int
    labeled: bool

    @abc.abstractmethod
    def in_order(self) -> tf.data.Dataset:
        """Every item once, always in the same order."""

    @abc.abstractmethod
    def shuffled(self, seed: int, start: int = 0, step: int = 1) -> tf.data.Dataset:
        """Epoch after epoch without end, each in another order.

        Args:
            seed: of all orders.
            start: how many items to leave out at the beginning, to go on there.
            step: 1 for every item, W for every W-th.
        """

    @abc.abstractmethod
    def record(self, index: int, content: bytes, label: int, name: bytes) -> Record:
        """What an item stands for.

        Raises:
            OSError: a file that cannot be read.
        """

    @abc.abstractmethod
    def hold_out(self, fraction: float, seed: int) -> "tuple[Split, Split]":
        """A split to train on and one to validate on, which share no image.

        Args:
            fraction: round(`fraction` · N) images, at least one, are held out.
            seed: of the choice, where the order of the images is not random already.

        Raises:
            InputError: fewer than two images.
        """

    @abc.abstractmethod
    def joined(self, other: "Split") -> "Split":
        """The images of this split and of another one of the same source, as one split."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """What changes when the images, their order or their labels change."""


class IndexedSplit(Split):
    """A split any of whose records can be read at once: each epoch is a random permutation."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Record:
        """The record at `index`, 0…`num_examples` - 1."""

    def record(self, index: int, content: bytes, label: int, name: bytes) -> Record:
        return self[index]

    def in_order(self) -> tf.data.Dataset:
        return tf.data.Dataset.range(self.num_examples).batch(BLOCK_SIZE).map(_item)

    def shuffled(self, seed: int, start: int = 0, step: int = 1) -> tf.data.Dataset:
        @functools.lru_cache(maxsize=2)
        def order(epoch):
            return np.random.default_rng([seed, epoch]).permutation(self.num_examples)

        def indices(positions):
            epochs, within = np.divmod(positions, self.num_examples)
            return np.concatenate([order(e)[within[epochs == e]] for e in np.unique(epochs)])

        def item(positions):
            index = tf.numpy_function(indices, [positions], tf.int64, stateful=False)
            return _item(tf.ensure_shape(index, [None]))

        return tf.data.Dataset.range(start, ENDLESS, step).batch(BLOCK_SIZE).map(item)

    def hold_out(self, fraction: float, seed: int) -> "tuple[IndexedSplit, IndexedSplit]":
        count = held_out_count(self, fraction)
        order = np.random.default_rng(seed).permutation(self.num_examples)
        return (
            SubsetSplit(self.name, self, np.sort(order[count:])),
            SubsetSplit(f"{self.name} (held out)", self, np.sort(order[:count])),
        )

    def joined(self, other: "IndexedSplit") -> "IndexedSplit":
        return JoinedSplit(self, other)


class FileSplit(IndexedSplit):
    """Image files.

    Args:
        name: for messages.
        paths: of N files.
        labels: int [N], or None.
    """

    def __init__(self, name: str, paths: Sequence[str | pathlib.Path], labels=None):
        self.name = name
        self.num_examples = len(paths)
        self.labeled = labels is not None
        self.paths = [str(path) for path in paths]
        self.labels = check_labels(labels, self.num_examples)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]
        with open(path, "rb") as file:
            return Record(file.read(), int(self.labels[index]), path)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.labels.tobytes())
        for path in self.paths:
            digest.update(f"{path} {file_state(path)}\n".encode())
        return digest.hexdigest()


class FileRangeSplit(IndexedSplit):
    """Images that lie one behind the other in larger files.

    Args:
        name: for messages.
        files: paths.
        ranges: int64 [N, 3]: which of `files`, offset, number of bytes.
        names: of N images.
        labels: int [N], or None.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[str],
        ranges: np.ndarray,
        names: Sequence[str],
        labels=None,
    ):
        self.name = name
        self.num_examples = len(ranges)
        self.labeled = labels is not None
        self.files = list(files)
        self.ranges = ranges
        self.names = names
        self.labels = check_labels(labels, self.num_examples)

    def __getitem__(self, index: int) -> Record:
        which, offset, size = self.ranges[index]
        with open(self.files[which], "rb") as file:
            file.seek(offset)
            content = file.read(size)
        return Record(content, int(self.labels[index]), self.names[index])

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.labels.tobytes() + self.ranges.tobytes())
        for path in self.files:
            digest.update(f"{path} {file_state(path)}\n".encode())
        return digest.hexdigest()


class ArraySplit(IndexedSplit):
    """Decoded or encoded images in memory (or mapped into it).

    Args:
        name: for messages.
        images: uint8 [N, H, W, 3] (or 1 channel, gray), or tokens [N, n].
        labels: int [N], or None.
    """

    def __init__(self, name: str, images: np.ndarray, labels=None):
        self.name = name
        self.num_examples = len(images)
        self.labeled = labels is not None
        self.images = images
        self.labels = check_labels(labels, self.num_examples)

    def __getitem__(self, index: int) -> Record:
        image = self.images[index]
        if image.ndim == 3:
            image = np.broadcast_to(image, (*image.shape[:2], 3))
        return Record(image, int(self.labels[index]), f"{self.name} #{index}")

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.labels.tobytes())
        digest.update(repr(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images))
        return digest.hexdigest()


class SubsetSplit(IndexedSplit):
    """Some images of another split.

    Args:
        name: for messages.
        split: the other one.
        indices: int [M], of its images.
    """

    def __init__(self, name: str, split: IndexedSplit, indices: np.ndarray):
        self.name = name
        self.num_examples = len(indices)
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
    """The images of two splits as one: first all of the one, then all of the other."""

    def __init__(self, first: IndexedSplit, second: IndexedSplit):
        self.name = f"{first.name} + {second.name}"
        self.num_examples = first.num_examples + second.num_examples
        self.labeled = first.labeled and second.labeled
        self._splits = first, second

    def __getitem__(self, index: int) -> Record:
        first, second = self._splits
        behind = index - first.num_examples
        return first[index] if behind < 0 else second[behind]

    def fingerprint(self) -> str:
        prints = "".join(split.fingerprint() for split in self._splits)
        return hashlib.sha256(prints.encode()).hexdigest()


def held_out_count(split: Split, fraction: float) -> int:
    """How many of the images of `split` are held out; see `Split.hold_out`."""
    if split.num_examples < 2:
        raise InputError(
            f"{split.name} has {split.num_examples} images, too few for a training and a "
            "validation split"
        )
    return max(1, round(fraction * split.num_examples))


def check_labels(labels, num_examples: int) -> np.ndarray:
    """`labels` as int32 [N]; -1 everywhere for None.

    Raises:
        InputError: another shape, or labels that are not integers from 0 on.
    """
    if labels is None:
        return np.full(num_examples, UNLABELED, np.int32)
    labels = np.asarray(labels)
    if labels.shape != (num_examples,):
        raise InputError(
            f"labels must have shape [{num_examples}], one for each image, got {list(labels.shape)}"
        )
    if num_examples and (labels.dtype.kind not in "iu" or labels.min() < 0):
        raise InputError(f"labels must be integers from 0 on, got {labels.dtype}: {labels[:5]}…")
    return labels.astype(np.int32)


def file_state(path: str | os.PathLike) -> str:
    """What changes when a file is written."""
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns}"


def _item(index):
    """The chunk of items of an indexed split, which need nothing but their indices."""
    nothing = tf.fill(tf.shape(index), "")
    label = tf.fill(tf.shape(index), UNLABELED)
    return {"index": index, "content": nothing, "label": label, "name": nothing}
