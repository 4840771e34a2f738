"""Files and folders that appear whole or not at all."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """A temporary sibling of `path` that becomes `path` when the block ends well.

    The block creates a file or a folder at the yielded path. If it fails, what it
    wrote is removed and `path` is as it was.

    Args:
        path: where the result shall be; its parent folders are created.
        overwrite: whether an existing `path` is replaced.

    Raises:
        FileExistsError: `path` exists and `overwrite` is false; raised before the block.
    """
    path = pathlib.Path(path).absolute()
    check_absent(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as directory:
        partial = pathlib.Path(directory, "new")
        yield partial
        check_absent(path, overwrite)
        if path.is_dir() and not path.is_symlink():
            # A folder cannot be replaced in one step: the old one moves aside first.
            path.rename(pathlib.Path(directory, "old"))
        partial.replace(path)


def check_absent(path: str | os.PathLike, overwrite: bool = False) -> None:
    """Raises `FileExistsError` if `path` exists and must not be overwritten."""
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists already; choose another path or allow overwriting")
