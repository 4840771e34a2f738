"""TensorFlow Serving's layout: one folder per version, named by its number."""

import os
import pathlib

from igpt_keras.errors import InputError


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
