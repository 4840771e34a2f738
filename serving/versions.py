"""TensorFlow Serving's directory layout: one folder per version, named by its number."""

import errno
import os
import pathlib

from igpt_keras.errors import InputError

# In a version's folder: TFRecords of `PredictionLog`, requests to run before it is served.
WARMUP_FILE = pathlib.PurePath("assets.extra", "tf_serving_warmup_requests")
# Versions travel as int64.
MAX_VERSION = 2**63 - 1


def version_folders(directory: str | os.PathLike) -> dict[int, pathlib.Path]:
    """Returns the versions' folders in a directory by number, oldest first.

    Folders whose names are not numbers of 63 bits are ignored, as TensorFlow Serving does.

    Raises:
        FileNotFoundError: The directory does not exist.
        InputError: It is a file.
    """
    directory = pathlib.Path(directory)
    if not directory.exists():
        raise FileNotFoundError(f"directory {directory} does not exist")
    if not directory.is_dir():
        raise InputError(f"directory {directory} is not a directory")
    folders = {
        int(path.name): path
        for path in directory.iterdir()
        if path.is_dir() and _is_version(path.name)
    }
    return dict(sorted(folders.items()))


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and int(name) <= MAX_VERSION


def publish(
    partial: pathlib.Path, directory: pathlib.Path, version: int | None = None
) -> pathlib.Path:
    """Makes a complete folder a version in a directory.

    Args:
        partial: The folder, on the same disk and not empty. It is moved.
        directory: The directory of all versions.
        version: The version's number; None for one more than the highest. Processes that
            publish at the same time get different numbers.

    Returns:
        The version's folder.

    Raises:
        FileExistsError: The version exists already.
    """
    number = max(version_folders(directory), default=0) + 1 if version is None else version
    while True:
        path = directory / str(number)
        try:
            # The operating system never replaces a folder that is not empty.
            partial.rename(path)
            return path
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            if version is not None:
                raise _exists(path) from None
            number += 1


def check_version(directory: str | os.PathLike, version: int) -> None:
    """Checks the number of a new version.

    Raises:
        InputError: The number is below 1.
        FileExistsError: The version exists already.
    """
    if not 1 <= version <= MAX_VERSION:
        raise InputError(f"version must be at least 1 and at most {MAX_VERSION}, got {version}")
    path = pathlib.Path(directory, str(version))
    if os.path.lexists(path):
        raise _exists(path)


def _exists(path: pathlib.Path) -> FileExistsError:
    return FileExistsError(f"{path} exists already; versions are never overwritten")
