"""Folders of image files."""

import os
from collections.abc import Iterator

from igpt_keras.data.file_splits import FileSplit
from igpt_keras.data.files import check_regular, printable
from igpt_keras.data.source import TEST, TRAIN, VALIDATION, Source
from igpt_keras.data.sources import register_source
from igpt_keras.data.sources._files import LeftOut, image_suffixes, is_image
from igpt_keras.data.sources._layout import layout
from igpt_keras.file_systems import expanded, is_url, usual_errors


@register_source("folder")
def open_folder(location: str, split: str | None = None) -> Source:
    """Opens a folder of image files, of any depth; hidden files are left out.

    ```
    photos/train/cat/1.jpg   photos/cat/1.jpg   photos/train/1.jpg   photos/1.jpg
    photos/test/dog/2.jpg    photos/dog/2.jpg   photos/test/2.jpg    photos/2.jpg
    ```

    Links to folders are followed, but every folder is read once. What is not used is counted
    and named in an `InputWarning`.

    Args:
        location: Path of the folder; "~" is the home folder.
        split: Name of the subfolder to train on instead of `train`.

    Raises:
        FileNotFoundError: There is no such folder.
        InputError: The folder holds no images, or named pipes, sockets or devices in the place
            of images, or the classes of its splits differ.
    """
    folder = expanded(location)
    if not _is_folder(folder):
        raise FileNotFoundError(f"{printable(location)} is not a folder of images")
    source = f"folder:{printable(location)}"
    left_out = LeftOut(source)
    walk = (RemoteWalk if is_url(folder) else Walk)(folder, left_out)
    names = sorted(walk)
    found = layout(names, split, source, left_out, walk.folders)
    left_out.warn()
    splits = {
        key: FileSplit(
            f"{source}, {key}",
            [os.path.join(folder, names[index]) for index in indices],
            labels,
            folder=folder,
        )
        for key, (indices, labels) in found.splits.items()
    }
    class_names = [printable(name) for name in found.class_names]
    return Source(splits[TRAIN], splits.get(VALIDATION), splits.get(TEST), class_names)


class Walk:
    """The images below a folder, each real folder once, in the order of their names.

    Iterating yields paths below the folder, with "/" between their components.

    Args:
        folder: The folder.
        left_out: Is told of files that are not images, and of links that lead nowhere new.

    Attributes:
        folders: Paths below the folder of all folders seen so far, hidden ones left out.
    """

    def __init__(self, folder: str, left_out: LeftOut):
        self.folders: list[str] = []
        self._folder = folder
        self._left_out = left_out
        self._links: list[str] = []
        self._suffixes = image_suffixes()
        self._seen = {_identity(path) for path in _with_parents(os.path.realpath(folder))}

    def __iter__(self) -> Iterator[str]:
        yield from self._below("")
        # Links come last, so that a folder has its own name if a link leads to it as well.
        while self._links:
            link = self._links.pop(0)
            if self._is_new(link):
                yield from self._below(f"{link}/")
            else:
                self._left_out.add("link{s} to folders that are read anyway", link)

    def _below(self, start: str) -> Iterator[str]:
        pending = [start]
        while pending:
            prefix = pending.pop()
            with os.scandir(os.path.join(self._folder, prefix)) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
            for entry in sorted(visible, key=lambda entry: entry.name):
                name = f"{prefix}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if self._is_new(name):
                        pending.append(f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    yield from self._image(name)
                elif entry.is_symlink() and not os.path.exists(entry.path):
                    self._left_out.add("link{s} to nothing", name)
                elif entry.is_dir():
                    self._links.append(name)
                else:
                    # A link to a file, or something that must not be opened.
                    yield from self._image(name, checked=True)

    def _is_new(self, name: str) -> bool:
        identity = _identity(os.path.join(self._folder, name))
        if identity in self._seen:
            return False
        self._seen.add(identity)
        self.folders.append(name)
        return True

    def _image(self, name: str, checked: bool = False) -> Iterator[str]:
        if not is_image(name, self._suffixes):
            self._left_out.add_file(name)
            return
        if checked:
            check_regular(os.path.join(self._folder, name))
        yield name


class RemoteWalk(Walk):
    """The images below a folder on another file system, which knows no links."""

    def __init__(self, folder: str, left_out: LeftOut):
        self.folders: list[str] = []
        self._folder = folder
        self._left_out = left_out
        self._suffixes = image_suffixes()

    def __iter__(self) -> Iterator[str]:
        import tensorflow as tf

        for path, _, files in tf.io.gfile.walk(self._folder):
            below = path.removeprefix(self._folder).strip("/")
            if any(part.startswith(".") for part in below.split("/")):
                continue
            if below:
                self.folders.append(below)
            for name in files:
                if not name.startswith("."):
                    yield from self._image(f"{below}/{name}" if below else name)


def _is_folder(path: str) -> bool:
    if not is_url(path):
        return os.path.isdir(path)
    import tensorflow as tf

    try:
        with usual_errors():
            return tf.io.gfile.stat(path).is_directory
    except FileNotFoundError:
        return False


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _with_parents(path: str) -> Iterator[str]:
    """The path and its parents: links to these lead around in circles."""
    while True:
        yield path
        path, before = os.path.dirname(path), path
        if path == before:
            return
