"""Space on a disk, taken before it is written to.

Some writers do not survive a full disk: a write to a mapped file ends the process (SIGBUS), and
HDF5 leaves objects behind that cannot be closed. A full disk is an `OSError` here.
"""

import os
import pathlib

import numpy as np


def create_array(
    path: str | os.PathLike, dtype: type[np.generic], shape: tuple[int, ...]
) -> np.memmap:
    """Creates a file for an array and maps it into memory.

    Args:
        path: The file, in NumPy's format; replaced if it exists.
        dtype: The dtype of the array.
        shape: Its shape.

    Returns:
        An array of zeros that is the content of the file.

    Raises:
        OSError: There is no space for it; the file is removed.

    Example:
        ```python
        features = create_array("features.npy", np.float32, (1000, 512))
        features[:10] = 1
        features.flush()
        ```
    """
    try:
        array = np.lib.format.open_memmap(path, "w+", dtype, shape)
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    except OSError as error:
        pathlib.Path(path).unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    return array


def check_space(path: str | os.PathLike, size: int) -> None:
    """Checks that a new file of `size` bytes has space at `path`.

    Raises:
        OSError: It has not.
    """
    try:
        with open(path, "xb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        pathlib.Path(path).unlink(missing_ok=True)
