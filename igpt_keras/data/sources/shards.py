"""Images packed into larger files: tar and TFRecord. They are read as they are."""

import glob
import hashlib
import os
import posixpath
import struct
import tarfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from igpt_keras.data.sources.base import Source
from igpt_keras.data.sources.folder import SUFFIXES, TEST, TRAIN, VALIDATION, is_image, layout
from igpt_keras.data.splits import (
    UNLABELED,
    FileRangeSplit,
    Record,
    Split,
    file_state,
    held_out_count,
)
from igpt_keras.data.streamed import StreamedSplit
from igpt_keras.errors import InputError

LABEL_SUFFIX = ".cls"
IMAGE_KEYS = ("image/encoded", "image", "jpg", "jpeg", "png")
LABEL_KEYS = ("image/class/label", "label")
# A TFRecord: length uint64, its checksum uint32, the content, its checksum uint32.
HEADER, FOOTER = 12, 4


def open_tar(pattern: str, split: str | None) -> Source:
    """Opens tar files whose names match `pattern`.

    Images with labels beside them (`KEY.jpg` and `KEY.cls`, as WebDataset has them) are
    images to train on. Else they are divided as those of a folder, see `layout`; a
    single folder around all of them does not count. Plain files are read wherever an
    image lies. Compressed ones (.tar.gz, …) can only be read from the beginning on,
    once to open them and once every epoch.

    Args:
        pattern: of paths, with `*`, `?` and `[…]`.
        split: folder to train on instead of `train`.

    Raises:
        FileNotFoundError: no such file.
        InputError: a damaged file, or one without images.
    """
    files = _matching(pattern)
    members = [(which, *member) for which, file in enumerate(files) for member in _members(file)]
    if any(name.endswith(LABEL_SUFFIX) for _, name, *_ in members):
        members, labels, class_names = _beside(members, pattern)
        parts = {TRAIN: (np.arange(len(members)), labels)}
    else:
        members = [member for member in members if is_image(member[1])]
        names = _without_root([name for _, name, *_ in members], split or TRAIN)
        parts, class_names = layout(names, split, pattern)
    packed = not all(file.endswith(".tar") for file in files)

    def part(key) -> Split | None:
        if key not in parts:
            return None
        indices, labels = parts[key]
        chosen = [members[index] for index in indices]
        if packed:
            keys = [(which, name) for which, name, *_ in chosen]
            return CompressedTarSplit(f"tar:{pattern}, {key}", files, keys, labels)
        ranges = np.array([(which, *at) for which, _, *at, _ in chosen], np.int64)
        names = [f"{files[which]}:{name}" for which, name, *_ in chosen]
        return FileRangeSplit(f"tar:{pattern}, {key}", files, ranges, names, labels)

    return Source(part(TRAIN), part(VALIDATION), part(TEST), class_names=class_names)


def open_tfrecord(pattern: str) -> Source:
    """Opens TFRecord files of `tf.train.Example` whose names match `pattern`, to train on.

    Images are found under `IMAGE_KEYS`, labels under `LABEL_KEYS`. To open the files,
    only the lengths of their records are read; where there are labels, all of it once.

    Args:
        pattern: of paths, with `*`, `?` and `[…]`.

    Raises:
        FileNotFoundError: no such file.
        InputError: another kind of file, or examples without images.
    """
    files = _matching(pattern)
    ranges = [(which, *at) for which, file in enumerate(files) for at in _records(file)]
    if not ranges:
        raise InputError(f"tfrecord:{pattern} holds no records")
    part = TFRecordSplit(f"tfrecord:{pattern}, {TRAIN}", files, np.array(ranges, np.int64))
    return Source(part, None, None, class_names=part.class_names)


class TFRecordSplit(FileRangeSplit):
    """Images in `tf.train.Example`s; see `open_tfrecord`."""

    def __init__(self, name: str, files: list[str], ranges: np.ndarray):
        names = [f"{files[which]} at {offset}" for which, offset, _ in ranges]
        super().__init__(name, files, ranges, names)
        labeled = self[0].label != UNLABELED
        self.class_names = []
        if labeled:
            labels = np.array([self[index].label for index in range(self.num_examples)])
            if (labels < 0).any():
                which = self.names[int((labels < 0).argmax())]
                raise InputError(f"{which} has no label, but the first record has one")
            self.labels, self.labeled = labels.astype(np.int32), True
            self.class_names = [str(label) for label in range(labels.max() + 1)]

    def __getitem__(self, index: int) -> Record:
        content, _, name = super().__getitem__(index)
        try:
            features = tf.train.Example.FromString(content).features.feature
        except DecodeError as error:
            raise InputError(f"{name} is not a tf.train.Example ({error})") from None
        image = [key for key in IMAGE_KEYS if features.get(key) and features[key].bytes_list.value]
        if not image:
            raise InputError(
                f"{name} holds no encoded image under {', '.join(IMAGE_KEYS)}; "
                f"it holds {', '.join(sorted(features))}"
            )
        labels = [key for key in LABEL_KEYS if features.get(key) and features[key].int64_list.value]
        label = features[labels[0]].int64_list.value[0] if labels else UNLABELED
        return Record(features[image[0]].bytes_list.value[0], label, name)


class CompressedTarSplit(StreamedSplit):
    """Images in compressed tar files.

    Args:
        name: for messages.
        files: paths.
        members: of N images, which of `files`, and the name in it.
        labels: int [N], or None.
    """

    def __init__(self, name: str, files: list[str], members: list[tuple[int, str]], labels):
        self.name = name
        self.num_examples = len(members)
        self.labeled = labels is not None
        self._files = files
        self._members = members
        self._labels = labels

    def items(self, seed: tf.Tensor | None) -> tf.data.Dataset:
        signature = {
            "index": tf.TensorSpec([], tf.int64),
            "content": tf.TensorSpec([], tf.string),
            "label": tf.TensorSpec([], tf.int32),
            "name": tf.TensorSpec([], tf.string),
        }
        args = () if seed is None else (seed,)
        return tf.data.Dataset.from_generator(self._read, output_signature=signature, args=args)

    def _read(self, seed=None) -> Iterator[dict]:
        wanted = {member: index for index, member in enumerate(self._members)}
        order = np.arange(len(self._files))
        if seed is not None:
            order = np.random.default_rng(seed).permutation(order)
        for which in order:
            file = self._files[which]
            with tarfile.open(file, "r|*") as tar:
                for member in tar:
                    index = wanted.get((which, posixpath.normpath(member.name)))
                    if index is not None:
                        yield {
                            "index": index,
                            "content": tar.extractfile(member).read(),
                            "label": UNLABELED if self._labels is None else self._labels[index],
                            "name": f"{file}:{member.name}",
                        }

    def hold_out(
        self, fraction: float, seed: int
    ) -> "tuple[CompressedTarSplit, CompressedTarSplit]":
        count = held_out_count(self, fraction)
        order = np.random.default_rng(seed).permutation(self.num_examples)

        def part(name, indices):
            members = [self._members[index] for index in indices]
            labels = None if self._labels is None else self._labels[indices]
            return CompressedTarSplit(name, self._files, members, labels)

        return (
            part(self.name, np.sort(order[count:])),
            part(f"{self.name} (held out)", np.sort(order[:count])),
        )

    def joined(self, other: "CompressedTarSplit") -> "CompressedTarSplit":
        labels = None
        if self.labeled and other.labeled:
            labels = np.concatenate([self._labels, other._labels])
        name = f"{self.name} + {other.name}"
        return CompressedTarSplit(name, self._files, [*self._members, *other._members], labels)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self._members).encode())
        digest.update(b"" if self._labels is None else self._labels.tobytes())
        for path in self._files:
            digest.update(f"{path} {file_state(path)}\n".encode())
        return digest.hexdigest()


def _matching(pattern: str) -> list[str]:
    files = sorted(path for path in glob.glob(pattern) if os.path.isfile(path))
    if not files:
        raise FileNotFoundError(f"{pattern} matches no file")
    return files


def _members(path: str) -> Iterator[tuple[str, int, int, int | None]]:
    """Name, offset, size and, of a label's file, its content, of the files in a tar."""
    try:
        with tarfile.open(path, "r:" if path.endswith(".tar") else "r|*") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                label = None
                if member.name.endswith(LABEL_SUFFIX):
                    label = _label(tar.extractfile(member).read(), f"{path}:{member.name}")
                yield posixpath.normpath(member.name), member.offset_data, member.size, label
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{path} is not a tar file, or damaged ({error})") from None


def _label(content: bytes, name: str) -> int:
    try:
        return int(content)
    except ValueError:
        raise InputError(f"{name} must hold one integer, got {content[:20]!r}") from None


def _beside(members, pattern):
    """The images among `members`, their labels int32 [N] and the classes' names."""

    def split(member):
        which, name, *_ = member
        folder, name = posixpath.split(name)
        key, _, suffix = name.partition(".")
        return (which, folder, key), f".{suffix.lower()}"

    label_of = {
        split(member)[0]: member[-1] for member in members if split(member)[1] == LABEL_SUFFIX
    }
    images = [member for member in members if split(member)[1] in SUFFIXES]
    if not images:
        raise InputError(f"tar:{pattern} holds no images beside its {LABEL_SUFFIX} files")
    labels = [label_of.get(split(member)[0], UNLABELED) for member in images]
    if min(labels) < 0:
        name = images[int(np.argmin(labels))][1]
        raise InputError(f"tar:{pattern} has no label from 0 on for {name} ({LABEL_SUFFIX} file)")
    class_names = [str(label) for label in range(max(labels) + 1)]
    return images, np.array(labels, np.int32), class_names


def _without_root(names: list[str], wanted: str) -> list[str]:
    """`names` without a folder around all of them that holds the folder to train on."""
    roots = {name.partition("/")[0] for name in names}
    if len(roots) == 1 and any(name.split("/")[1:2] == [wanted] for name in names):
        return [name.partition("/")[2] for name in names]
    return names


def _records(path: str) -> Iterator[tuple[int, int]]:
    """Offset and size of the content of every record."""
    end = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        offset = 0
        while offset < end:
            file.seek(offset)
            header = file.read(HEADER)
            size = struct.unpack("<Q", header[:8])[0] if len(header) == HEADER else end
            if offset + HEADER + size + FOOTER > end:
                raise InputError(
                    f"{path} is not a TFRecord file, or compressed, or cut off (at byte {offset})"
                )
            yield offset + HEADER, size
            offset += HEADER + size + FOOTER
