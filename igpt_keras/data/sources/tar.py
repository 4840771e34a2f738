"""Tar files of images, read as they are."""

import hashlib
import os
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from igpt_keras.data.file_splits import FileRangeSplit
from igpt_keras.data.files import (
    ALWAYS_ALLOWED_BYTES,
    MAX_EXPANSION,
    MAX_IMAGE_BYTES,
    check_regular,
    open_regular,
    printable,
    whole_file_digest,
)
from igpt_keras.data.source import TEST, TRAIN, VALIDATION, Source
from igpt_keras.data.sources import register_source
from igpt_keras.data.sources._files import (
    LeftOut,
    image_suffixes,
    is_image,
    matching_files,
    numbered_classes,
)
from igpt_keras.data.sources._layout import Layout, in_split_folders, layout, splits_of_files
from igpt_keras.data.splits import UNLABELED, Record, Split, check_count, held_out_count
from igpt_keras.data.streamed_split import StreamedSplit
from igpt_keras.errors import InputError
from igpt_keras.file_systems import is_url

LABEL_SUFFIX = ".cls"
MAX_LABEL_BYTES = 32
# Headers that tarfile reads into memory whole: long names and the like.
EXTENSIONS = {
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
}
MAX_EXTENSION_BYTES = 1 << 20


class Member(NamedTuple):
    """A file in a tar file.

    Attributes:
        file: Index of the tar file.
        position: Its number in the tar file.
        name: Path in the tar file.
        offset, size: Where its content lies in an uncompressed tar file, in bytes.
        label: The content of a label file; None for another file.
    """

    file: int
    position: int
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
    Other images are divided like those of a folder. Where every tar file is named after a split,
    as `train-0.tar` and `val-0.tar` are, its images belong to that. Images in plain tar files
    are read at random; compressed files (.tar.gz, …) are read sequentially, once to open them
    and once in every epoch. What is not used is counted and named in an `InputWarning`.

    Args:
        location: Pattern of paths, with `*`, `?` and `[…]`.
        split: Name of the folder to train on instead of `train`.

    Raises:
        FileNotFoundError: No file matches.
        InputError: A file is damaged or expands to a multiple of its size, or there are no
            images.
    """
    source = f"tar:{printable(location)}"
    files = matching_files(location)
    left_out, folders = LeftOut(source), list[str]()
    members = [
        member
        for index, file in enumerate(files)
        for member in _members(index, file, left_out, folders)
    ]
    file_splits = splits_of_files(files) if split is None else None
    if any(member.label is not None for member in members):
        if split is not None:
            raise InputError(
                f"{source} labels its images by {LABEL_SUFFIX} files, so it has no folder "
                f"{split!r} to train on"
            )
        members, found = _with_label_files(members, file_splits, source, left_out)
    else:
        members = _images(members, left_out)
        names = [member.name for member in members]
        if file_splits:
            names = in_split_folders(names, [file_splits[member.file] for member in members])
        found = layout(names, split, source, left_out, folders)
    left_out.warn()
    compressed = not all(file.endswith(".tar") for file in files)

    def open_split(key: str) -> Split:
        indices, labels = found.splits[key]
        chosen = [members[index] for index in indices]
        name = f"{source}, {key}"
        if compressed:
            return CompressedTarSplit(name, files, chosen, labels)
        ranges = np.array([(m.file, m.offset, m.size) for m in chosen], np.int64)
        return FileRangeSplit(name, files, ranges, [m.name for m in chosen], labels)

    opened = {key: open_split(key) for key in found.splits}
    class_names = [printable(name) for name in found.class_names]
    return Source(opened[TRAIN], opened.get(VALIDATION), opened.get(TEST), class_names)


class CompressedTarSplit(StreamedSplit):
    """Images in compressed tar files.

    Args:
        name: Name for error messages.
        files: Paths of the tar files.
        members: The N images.
        labels: int [N], or None.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[str],
        members: Sequence[Member],
        labels: np.ndarray | None,
    ):
        self.name = name
        self.num_examples = check_count(len(members), name)
        self.labeled = labels is not None
        self._files = list(files)
        self._members = list(members)
        self._labels = labels

    def references(self, seed: tf.Tensor | None) -> tf.data.Dataset:
        files = np.arange(len(self._files))
        if seed is None:
            return self._read_files(lambda: files)
        return self._read_files(lambda seed: np.random.default_rng(seed).permutation(files), seed)

    def section(self, start: int, stop: int) -> tf.data.Dataset:
        counts = np.bincount([member.file for member in self._members], minlength=len(self._files))
        ends = counts.cumsum()
        first = int(np.searchsorted(ends, start, side="right"))
        before = int(ends[first] - counts[first]) if start < stop else start
        references = self._read_files(lambda: np.arange(first, len(self._files)))
        return references.skip(start - before).take(stop - start)

    def record(self, index: int, image_bytes: bytes, label: int, name: bytes) -> Record:
        member = self._members[index]
        image_id = f"{os.path.basename(self._files[member.file])}:{member.name}"
        record = super().record(index, image_bytes, label, name)
        return record._replace(image_id=printable(image_id))

    def _read_files(self, files: Callable[..., np.ndarray], *args: tf.Tensor) -> tf.data.Dataset:
        """Returns the references of files in the order that `files` returns for `args`."""
        signature = {
            "index": tf.TensorSpec([], tf.int64),
            "image_bytes": tf.TensorSpec([], tf.string),
            "label": tf.TensorSpec([], tf.int32),
            "name": tf.TensorSpec([], tf.string),
        }
        return tf.data.Dataset.from_generator(
            lambda *args: self._read(files(*args)), output_signature=signature, args=args
        )

    def _read(self, order: np.ndarray) -> Iterator[dict]:
        index_of = {(m.file, m.position): index for index, m in enumerate(self._members)}
        for which in order.tolist():
            file = self._files[which]
            with _open(file) as tar:
                for position, member in enumerate(tar):
                    index = index_of.get((which, position))
                    if index is not None:
                        yield {
                            "index": index,
                            "image_bytes": _content(tar, member),
                            "label": UNLABELED if self._labels is None else self._labels[index],
                            "name": os.fsencode(f"{file}:{member.name}"),
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
        # Opening the files has read all of them, so that comparing every byte costs little.
        digest = hashlib.sha256(b"" if self._labels is None else self._labels.tobytes())
        for member in self._members:
            digest.update(os.fsencode(f"{member.file} {member.position} {member.name}") + b"\0")
        for path in self._files:
            digest.update(whole_file_digest(path))
        return digest.hexdigest()


class _TarInfo(tarfile.TarInfo):
    """A member whose long names fit into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_TarInfo":
        member = super().frombuf(buf, encoding, errors)
        if member.type in EXTENSIONS and member.size > MAX_EXTENSION_BYTES:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member


def _open(path: str) -> tarfile.TarFile:
    file = open_regular(path) if is_url(path) else None
    mode = "r:" if path.endswith(".tar") else "r|*"
    return tarfile.open(path, mode, fileobj=file, tarinfo=_TarInfo)


def _members(index: int, path: str, left_out: LeftOut, folders: list[str]) -> Iterator[Member]:
    """Yields the files in a tar file; of several of one name the last, as unpacking would."""
    members: dict[str, Member] = {}
    limit = max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * check_regular(path))
    total = 0
    try:
        with _open(path) as tar:
            for position, member in enumerate(tar):
                name = posixpath.normpath(member.name).lstrip("/")
                total += tarfile.BLOCKSIZE + member.size
                if total > limit:
                    raise InputError(
                        f"{path} must not expand to more than {limit:,} bytes, {MAX_EXPANSION} "
                        "times its size; unpack it if it is meant to"
                    )
                if member.isdir():
                    folders.append(name)
                elif member.issparse() or not member.isfile():
                    left_out.add("link{s}, device{s} or sparse file{s}", name)
                elif member.size > MAX_IMAGE_BYTES:
                    left_out.add(f"file{{s}} of more than {MAX_IMAGE_BYTES:,} bytes", name)
                else:
                    label = None
                    if name.endswith(LABEL_SUFFIX):
                        label = _label(tar, member, f"{path}:{member.name}")
                    members.pop(name, None)
                    members[name] = Member(
                        index, position, name, member.offset_data, member.size, label
                    )
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{path} is not a tar file, or is damaged ({error})") from None
    yield from members.values()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise InputError(f"{member.name} is not a file")
    return file.read()


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> int:
    content = _content(tar, member) if member.size <= MAX_LABEL_BYTES else b"a long text"
    try:
        return int(content)
    except ValueError:
        raise InputError(f"{name} must hold one integer, got {content[:20]!r}") from None


def _images(members: Sequence[Member], left_out: LeftOut) -> list[Member]:
    """The images among `members`; the others are left out."""
    suffixes = image_suffixes()
    images = []
    for member in members:
        if is_image(member.name, suffixes):
            images.append(member)
        else:
            left_out.add_file(member.name)
    return images


def _with_label_files(
    members: Sequence[Member], file_splits: Sequence[str] | None, source: str, left_out: LeftOut
) -> tuple[list[Member], Layout]:
    """Returns the images among `members`, and their splits and labels."""
    suffixes = image_suffixes()
    label_of = {m.key: m.label for m in members if m.suffix == LABEL_SUFFIX and m.label is not None}
    images = [member for member in members if member.suffix in suffixes]
    if not images:
        raise InputError(f"{source} holds {LABEL_SUFFIX} files, but no images")
    labels = [label_of.get(image.key, UNLABELED) for image in images]
    if min(labels) < 0:
        name = images[int(np.argmin(labels))].name
        raise InputError(
            f"{source} must hold a {LABEL_SUFFIX} file with an integer from 0 on for "
            f"each image, got none for {name}"
        )
    with_images = {image.key for image in images}
    for member in members:
        if member.suffix not in (*suffixes, LABEL_SUFFIX):
            left_out.add_file(member.name)
        elif member.key not in with_images:
            left_out.add("label file{s} without an image", member.name)
    found: dict[str, list[int]] = {}
    for index, image in enumerate(images):
        found.setdefault(file_splits[image.file] if file_splits else TRAIN, []).append(index)
    table = np.array(labels, np.int32)
    splits = {key: (np.array(indices, np.int64), table[indices]) for key, indices in found.items()}
    return images, Layout(dict(splits), numbered_classes(labels, source))
