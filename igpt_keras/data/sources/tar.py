"""Tar files of images, read as they are."""

import hashlib
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from igpt_keras.data.source import TEST, TRAIN, VALIDATION, Source
from igpt_keras.data.sources import register_source
from igpt_keras.data.sources._files import SUFFIXES, is_image, layout, matching_files
from igpt_keras.data.splits import UNLABELED, FileRangeSplit, Split, file_state, held_out_count
from igpt_keras.data.streamed_split import StreamedSplit
from igpt_keras.errors import InputError

LABEL_SUFFIX = ".cls"


class Member(NamedTuple):
    """A file in a tar file.

    Attributes:
        file: Index of the tar file.
        name: Path in the tar file.
        offset, size: Where its content lies in an uncompressed tar file, in bytes.
        label: The content of a label file; None for another file.
    """

    file: int
    name: str
    offset: int
    size: int
    label: int | None

    @property
    def key(self) -> tuple[int, str, str]:
        """What an image and its label file have in common (WebDataset's convention)."""
        folder, name = posixpath.split(self.name)
        return self.file, folder, name.partition(".")[0]

    @property
    def suffix(self) -> str:
        """Everything after the first dot of the file name, in lower case."""
        return "." + posixpath.basename(self.name).partition(".")[2].lower()


@register_source("tar")
def open_tar(location: str, split: str | None = None) -> Source:
    """Opens tar files whose paths match a pattern.

    Images with label files (`KEY.jpg` and `KEY.cls`, as in WebDataset) are images to train on.
    Other images are divided like those of a folder; a single folder around all of them is
    ignored. Images in plain tar files are read at random; compressed files (.tar.gz, …) are
    read sequentially, once to open them and once in every epoch.

    Args:
        location: Pattern of paths, with `*`, `?` and `[…]`.
        split: Name of the folder to train on instead of `train`.

    Raises:
        FileNotFoundError: No file matches.
        InputError: A file is damaged, or there are no images.
    """
    files = matching_files(location)
    members = [member for index, file in enumerate(files) for member in _members(index, file)]
    if any(member.label is not None for member in members):
        members, labels, class_names = _with_label_files(members, location)
        splits = {TRAIN: (np.arange(len(members)), labels)}
    else:
        members = [member for member in members if is_image(member.name)]
        names = _without_root([member.name for member in members], split or TRAIN)
        splits, class_names = layout(names, split, location)
    compressed = not all(file.endswith(".tar") for file in files)

    def open_split(key: str) -> Split:
        indices, labels = splits[key]
        chosen = [members[index] for index in indices]
        name = f"tar:{location}, {key}"
        if compressed:
            return CompressedTarSplit(name, files, [(m.file, m.name) for m in chosen], labels)
        ranges = np.array([(m.file, m.offset, m.size) for m in chosen], np.int64)
        return FileRangeSplit(
            name, files, ranges, [f"{files[m.file]}:{m.name}" for m in chosen], labels
        )

    opened = {key: open_split(key) for key in splits}
    return Source(opened[TRAIN], opened.get(VALIDATION), opened.get(TEST), class_names)


class CompressedTarSplit(StreamedSplit):
    """Images in compressed tar files.

    Args:
        name: Name for error messages.
        files: Paths of the tar files.
        members: For each of N images, the index of its file and its path in it.
        labels: int [N], or None.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[str],
        members: Sequence[tuple[int, str]],
        labels: np.ndarray | None,
    ):
        self.name = name
        self.num_examples = len(members)
        self.labeled = labels is not None
        self._files = list(files)
        self._members = list(members)
        self._labels = labels

    def references(self, seed: tf.Tensor | None) -> tf.data.Dataset:
        signature = {
            "index": tf.TensorSpec([], tf.int64),
            "image_bytes": tf.TensorSpec([], tf.string),
            "label": tf.TensorSpec([], tf.int32),
            "name": tf.TensorSpec([], tf.string),
        }
        args = () if seed is None else (seed,)
        return tf.data.Dataset.from_generator(self._read, output_signature=signature, args=args)

    def _read(self, seed: int | None = None) -> Iterator[dict]:
        index_of = {member: index for index, member in enumerate(self._members)}
        order = np.arange(len(self._files))
        if seed is not None:
            order = np.random.default_rng(seed).permutation(order)
        for which in order.tolist():
            file = self._files[which]
            with tarfile.open(file, "r|*") as tar:
                for member in tar:
                    index = index_of.get((which, posixpath.normpath(member.name)))
                    if index is not None:
                        yield {
                            "index": index,
                            "image_bytes": _content(tar, member),
                            "label": UNLABELED if self._labels is None else self._labels[index],
                            "name": f"{file}:{member.name}",
                        }

    def hold_out(
        self, fraction: float, seed: int
    ) -> "tuple[CompressedTarSplit, CompressedTarSplit]":
        count = held_out_count(self, fraction)
        order = np.random.default_rng(seed).permutation(self.num_examples)

        def subset(name: str, indices: np.ndarray) -> CompressedTarSplit:
            members = [self._members[index] for index in indices]
            labels = None if self._labels is None else self._labels[indices]
            return CompressedTarSplit(name, self._files, members, labels)

        return (
            subset(self.name, np.sort(order[count:])),
            subset(f"{self.name} (held out)", np.sort(order[:count])),
        )

    def joined(self, other: "CompressedTarSplit") -> "CompressedTarSplit":
        labels = None
        if self._labels is not None and other._labels is not None:
            labels = np.concatenate([self._labels, other._labels])
        name = f"{self.name} + {other.name}"
        return CompressedTarSplit(name, self._files, [*self._members, *other._members], labels)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self._members).encode())
        digest.update(b"" if self._labels is None else self._labels.tobytes())
        for path in self._files:
            digest.update(f"{path} {file_state(path)}\n".encode())
        return digest.hexdigest()


def _members(index: int, path: str) -> Iterator[Member]:
    try:
        with tarfile.open(path, "r:" if path.endswith(".tar") else "r|*") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                label = None
                if member.name.endswith(LABEL_SUFFIX):
                    label = _label(_content(tar, member), f"{path}:{member.name}")
                name = posixpath.normpath(member.name)
                yield Member(index, name, member.offset_data, member.size, label)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{path} is not a tar file, or is damaged ({error})") from None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise InputError(f"{member.name} is not a file")
    return file.read()


def _label(content: bytes, name: str) -> int:
    try:
        return int(content)
    except ValueError:
        raise InputError(f"{name} must hold one integer, got {content[:20]!r}") from None


def _with_label_files(
    members: Sequence[Member], location: str
) -> tuple[list[Member], np.ndarray, list[str]]:
    """Returns the images among `members`, their labels int32 [N] and the class names."""
    label_of = {
        member.key: member.label
        for member in members
        if member.label is not None and member.suffix == LABEL_SUFFIX
    }
    images = [member for member in members if member.suffix in SUFFIXES]
    if not images:
        raise InputError(f"tar:{location} holds {LABEL_SUFFIX} files, but no images")
    labels = [label_of.get(image.key, UNLABELED) for image in images]
    if min(labels) < 0:
        name = images[int(np.argmin(labels))].name
        raise InputError(
            f"tar:{location} must hold a {LABEL_SUFFIX} file with an integer from 0 on for "
            f"each image, got none for {name}"
        )
    class_names = [str(label) for label in range(max(labels) + 1)]
    return images, np.array(labels, np.int32), class_names


def _without_root(names: list[str], train: str) -> list[str]:
    """Removes a folder around all of `names` that holds the folder to train on."""
    roots = {name.partition("/")[0] for name in names}
    if len(roots) == 1 and any(name.split("/")[1:2] == [train] for name in names):
        return [name.partition("/")[2] for name in names]
    return names
