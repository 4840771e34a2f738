"""Splits of images in files, or packed into larger files."""

import abc
import functools
import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from igpt_keras.data.files import (
    Part,
    UnreadableFile,
    check_size,
    content_digests,
    open_regular,
    printable,
    read_image_file,
    states_digest,
)
from igpt_keras.data.splits import IndexedSplit, Record, check_count, check_labels


class _FilesSplit(IndexedSplit):
    """Images in files, whose fingerprint is that of the files' content."""

    def __init__(self, files: Sequence[str]):
        self._files = files
        self._fingerprint: tuple[bytes, str] | None = None

    def fingerprint(self) -> str:
        state = states_digest(self._files)
        if self._fingerprint is None or self._fingerprint[0] != state:
            self._fingerprint = state, self._content_fingerprint()
        return self._fingerprint[1]

    @abc.abstractmethod
    def _content_fingerprint(self) -> str:
        """Returns the fingerprint, for which the files are read."""


class FileSplit(_FilesSplit):
    """Image files.

    Args:
        name: Name for error messages.
        paths: Paths of N files.
        labels: int [N], or None.
        folder: Folder of all the files, which may move without becoming another data set; by
            default the deepest one.

    Raises:
        InputError: There are no files, or the labels do not fit.

    Example:
        ```python
        from igpt_keras.data import FileSplit

        split = FileSplit("my photographs", ["cat.jpg", "dog.jpg"], labels=[0, 1])
        ```
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[str | pathlib.Path],
        labels: Sequence[int] | np.ndarray | None = None,
        folder: str | os.PathLike | None = None,
    ):
        self.name = name
        self.num_examples = check_count(len(paths), name)
        self.labeled = labels is not None
        self.paths = [os.path.expanduser(path) for path in paths]
        self.labels = check_labels(labels, self.num_examples)
        self._folder = folder
        super().__init__(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]
        label, name = int(self.labels[index]), printable(path)
        return Record(read_image_file(path), label, name, printable(self._name_below(path)))

    def _content_fingerprint(self) -> str:
        names = [self._name_below(path) for path in self.paths]
        return _fingerprint(self.labels, names, map(Part, self.paths))

    @functools.cached_property
    def _root(self) -> str:
        folders = [os.path.dirname(os.path.abspath(path)) for path in self.paths]
        return os.path.abspath(self._folder or os.path.commonpath(folders))

    def _name_below(self, path: str) -> str:
        return os.path.relpath(path, self._root).replace(os.sep, "/")


class FileRangeSplit(_FilesSplit):
    """Image files that are packed into larger files.

    Args:
        name: Name for error messages.
        files: Paths of the larger files.
        ranges: int64 [N, 3]: index in `files`, offset and size in bytes of each image.
        names: Names of the N images in their files, or None.
        labels: int [N], or None.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[str],
        ranges: np.ndarray,
        names: Sequence[str] | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
    ):
        self.name = name
        self.num_examples = check_count(len(ranges), name)
        self.labeled = labels is not None
        self.files = list(files)
        self.ranges = ranges
        self.names = names
        self.labels = check_labels(labels, self.num_examples)
        super().__init__(self.files)

    def __getitem__(self, index: int) -> Record:
        which, offset, size = self.ranges[index]
        name = self.describe(index)
        check_size(size, name)
        with open_regular(self.files[which]) as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise UnreadableFile(name, "the file around it was cut off")
        return Record(content, int(self.labels[index]), name, self.image_id(index))

    def describe(self, index: int) -> str:
        """Returns the name of the image at `index`, for messages."""
        return self._named(index, self.files[self.ranges[index][0]])

    def image_id(self, index: int) -> str:
        """Returns the name of the image at `index` that stays when the files move."""
        return self._named(index, os.path.basename(self.files[self.ranges[index][0]]))

    def _named(self, index: int, file: str) -> str:
        offset = self.ranges[index][1]
        place = f" at {offset}" if self.names is None else f":{self.names[index]}"
        return printable(f"{file}{place}")

    def _content_fingerprint(self) -> str:
        parts = (Part(self.files[which], *at) for which, *at in self.ranges.tolist())
        return _fingerprint(self.labels, self.names or (), parts)


def _fingerprint(labels: np.ndarray, names: Iterable[str], parts: Iterable[Part]) -> str:
    """A digest of labels, names and the contents of files."""
    digest = hashlib.sha256(labels.tobytes())
    for name in names:
        digest.update(os.fsencode(name) + b"\0")
    for content in content_digests(parts):
        digest.update(content)
    return digest.hexdigest()
