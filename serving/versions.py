"""TensorFlow Serving's layout: one folder per version, named by its number."""

import errno
import os
import pathlib

from igpt_keras.errors import InputError

# In a version's folder: requests to run before it is served, TFRecords of `PredictionLog`.
WARMUP_FILE = pathlib.PurePath("assets.extra", "tf_serving_warmup_requests")


def version_folders(directory: str | os.PathLike) -> dict[int, pathlib.Path]:
    """The versions in `directory`, oldest first; folders with other names do not count.

    Raises:
        FileNotFoundError: no such directory.
        InputError: `directory` is a file.
    """
    directory = pathlib.Path(directory)
    if not directory.exists():
        raise FileNotFoundError(f"directory {directory} does not exist")
    if not directory.is_dir():
        raise InputError(f"directory {directory} is not a directory")
    folders = {
        int(path.name): path
        for path in directory.iterdir()
        if path.is_dir() and path.name.isascii() and path.name.isdigit()
    }
    return dict(sorted(folders.items()))


def publish(
    partial: pathlib.Path, directory: pathlib.Path, version: int | None = None
) -> pathlib.Path:
    """Moves the complete folder `partial` to a version in `directory`, on the same disk.

    Args:
        partial: not empty.
        directory: holds all versions.
        version: its number; None for one more than the highest, also where others are
            published meanwhile.

    Returns: the path of the version's folder.

    Raises:
        FileExistsError: the version exists already.
    """
    number = max(version_folders(directory), default=0) + 1 if version is None else version
    while True:
        path = directory / str(number)
        try:
            # The system replaces no folder that holds something.
            partial.rename(path)
            return path
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            if version is not None:
                raise _exists(path) from None
            number += 1


def check_version(directory: str | os.PathLike, version: int) -> None:
    """Raises `InputError` for an impossible number, `FileExistsError` for an existing one."""
    if version < 1:
        raise InputError(f"version must be at least 1, got {version}")
    path = pathlib.Path(directory, str(version))
    if os.path.lexists(path):
        raise _exists(path)


def _exists(path: pathlib.Path) -> FileExistsError:
    return FileExistsError(f"{path} exists already; versions are never overwritten")
