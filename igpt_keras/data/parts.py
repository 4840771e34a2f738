"""Parts of data sets: images and their labels, in order or shuffled without end.

A record is a dictionary of tensors: `image`, a string with an encoded image or uint8
[h, w, 3]; `label`, int32, -1 where there is none; `name`, a string for messages.
"""

import abc
import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from igpt_keras.errors import InputError

UNLABELLED = -1


class Part(abc.ABC):
    """One part of a data set.

    Attributes:
        name: for messages, such as "folder:photos, train".
        num_examples: how many images it holds.
        labelled: whether every image has a label.
    """

    name: str
    num_examples: int
    labelled: bool

    @abc.abstractmethod
    def in_order(self) -> tf.data.Dataset:
        """Every record once, always in the same order."""

    @abc.abstractmethod
    def shuffled(self, seed: int, start: int = 0, step: int = 1) -> tf.data.Dataset:
        """Epoch after epoch without end, each in another order.

        Args:
            seed: of all orders.
            start: how many records to leave out at the beginning, to go on there.
            step: 1 for every record, W for every W-th.
        """

    @abc.abstractmethod
    def hold_out(self, fraction: float, seed: int) -> "tuple[Part, Part]":
        """A part to train on and one to validate on, which share no image.

        Args:
            fraction: round(`fraction` · N) images, at least one, are held out.
            seed: of the choice, where the order of the images is not random already.

        Raises:
            InputError: fewer than two images.
        """

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """What changes when the images, their order or their labels change."""


class IndexedPart(Part):
    """A part any of whose records can be read at once: it shuffles as a whole, for nothing."""

    @abc.abstractmethod
    def fetch(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """The record at `index`, int64 in 0…`num_examples` - 1."""

    def in_order(self) -> tf.data.Dataset:
        return self._read(tf.data.Dataset.range(self.num_examples))

    @abc.abstractmethod
    def subset(self, indices: np.ndarray, name: str) -> "IndexedPart":
        """The images at `indices`, as a part of its own."""

    def hold_out(self, fraction: float, seed: int) -> "tuple[IndexedPart, IndexedPart]":
        count = held_out_count(self, fraction)
        order = np.random.default_rng(seed).permutation(self.num_examples)
        return (
            self.subset(np.sort(order[count:]), self.name),
            self.subset(np.sort(order[:count]), f"{self.name} (held out)"),
        )

    def shuffled(self, seed: int, start: int = 0, step: int = 1) -> tf.data.Dataset:
        def index(position):
            epoch = position // self.num_examples
            return tf.random.experimental.index_shuffle(
                position % self.num_examples,
                seed=tf.stack([tf.constant(seed, tf.int64), epoch]),
                max_index=self.num_examples - 1,
            )

        positions = tf.data.Dataset.range(start, np.iinfo(np.int64).max, step)
        return self._read(positions.map(index, num_parallel_calls=1))

    def _read(self, indices):
        return indices.map(self.fetch, num_parallel_calls=tf.data.AUTOTUNE)


class FilePart(IndexedPart):
    """Image files.

    Args:
        name: for messages.
        paths: of N files.
        labels: int [N], or None.
    """

    def __init__(self, name: str, paths: Sequence[pathlib.Path], labels=None):
        self.name = name
        self.num_examples = len(paths)
        self.labelled = labels is not None
        self.paths = np.array([str(path) for path in paths], dtype=object)
        self.labels = _labels(labels, self.num_examples)

    def fetch(self, index):
        path = tf.constant(self.paths)[index]
        label = tf.constant(self.labels)[index]
        return {"image": tf.io.read_file(path), "label": label, "name": path}

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.labels.tobytes())
        for path in self.paths:
            status = os.stat(path)
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def subset(self, indices: np.ndarray, name: str) -> "FilePart":
        labels = self.labels[indices] if self.labelled else None
        return FilePart(name, self.paths[indices], labels)


class ArrayPart(IndexedPart):
    """Decoded or encoded images in memory (or mapped into it).

    Args:
        name: for messages.
        images: uint8 [N, H, W, 3], or tokens int32 [N, n].
        labels: int [N], or None.
    """

    def __init__(self, name: str, images: np.ndarray, labels=None):
        self.name = name
        self.num_examples = len(images)
        self.labelled = labels is not None
        self.images = images
        self.labels = _labels(labels, self.num_examples)

    def fetch(self, index):
        image = tf.numpy_function(
            lambda i: self.images[i], [index], self.images.dtype, stateful=False
        )
        image = tf.ensure_shape(image, self.images.shape[1:])
        name = tf.strings.join([self.name, tf.strings.as_string(index)], " #")
        return {"image": image, "label": tf.constant(self.labels)[index], "name": name}

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.labels.tobytes())
        digest.update(np.ascontiguousarray(self.images))
        return digest.hexdigest()

    def subset(self, indices: np.ndarray, name: str) -> "ArrayPart":
        labels = self.labels[indices] if self.labelled else None
        return ArrayPart(name, self.images[indices], labels)


def held_out_count(part: Part, fraction: float) -> int:
    """How many of the images of `part` are held out; see `Part.hold_out`."""
    if part.num_examples < 2:
        raise InputError(
            f"{part.name} has {part.num_examples} images, too few for a training and a "
            "validation part"
        )
    return max(1, round(fraction * part.num_examples))


def _labels(labels, num_examples: int) -> np.ndarray:
    if labels is None:
        return np.full(num_examples, UNLABELLED, np.int32)
    labels = np.asarray(labels)
    if labels.shape != (num_examples,):
        raise InputError(
            f"labels must have shape [{num_examples}], one for each image, got {list(labels.shape)}"
        )
    return labels.astype(np.int32)
