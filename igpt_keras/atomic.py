"""Files and folders that appear whole or not at all."""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

SUFFIX = ".unfinished"
# No space, no quota, and a file above the limit of the process.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_path(
    path: str | os.PathLike, overwrite: bool = False, marker: str | None = None
) -> Iterator[pathlib.Path]:
    """Yields a temporary sibling of `path` that becomes `path` when the block succeeds.

    The block creates a file or a folder at the yielded path. If it fails, what it wrote is
    removed and `path` is as it was.

    Args:
        path: The file or folder to create; its parent folders are created as well.
        overwrite: Whether to replace an existing `path`.
        marker: Name of a file that every folder of this kind holds. A folder without it is
            never replaced, unless it is empty.

    Raises:
        FileExistsError: `path` exists and must not be replaced; raised before the block runs.
        OSError: The disk is full; the error names `path`.

    Example:
        ```python
        with atomic_path("results.txt", overwrite=True) as partial:
            partial.write_text("complete")
        ```
    """
    path = pathlib.Path(path).expanduser().absolute()
    check_replaceable(path, overwrite, marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name may be as long as the file system allows.
    prefix = f".{os.fsencode(path.name)[:100].decode(errors='ignore')}."
    with tempfile.TemporaryDirectory(prefix=prefix, suffix=SUFFIX, dir=path.parent) as directory:
        partial = pathlib.Path(directory, "new")
        try:
            yield partial
        except OSError as error:
            if error.errno in FULL_DISK and error.filename is None:
                error.filename = os.fspath(path)
            raise
        check_replaceable(path, overwrite, marker)
        if path.is_dir() and not path.is_symlink():
            # A folder cannot be replaced in one step: the old one moves aside first.
            path.rename(pathlib.Path(directory, "old"))
        partial.replace(path)


def remove_folder(path: str | os.PathLike) -> None:
    """Removes a folder, which disappears whole even if the process is killed meanwhile."""
    path = pathlib.Path(path)
    aside = path.with_name(f".{path.name}{SUFFIX}")
    if aside.exists():
        shutil.rmtree(aside)
    path.rename(aside)
    shutil.rmtree(aside)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Removes what functions of this module left in `folder` when their process was killed."""
    for path in pathlib.Path(folder).glob(f".*{SUFFIX}"):
        shutil.rmtree(path)


def check_replaceable(
    path: str | os.PathLike, overwrite: bool = False, marker: str | None = None
) -> None:
    """Checks that `path` may be created or replaced; arguments as for `atomic_path`.

    Raises:
        FileExistsError: `path` exists and must not be replaced.
    """
    path = pathlib.Path(path).expanduser()
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise FileExistsError(f"{path} exists already; choose another path or overwrite it")
    if path.is_dir() and any(path.iterdir()):
        if marker is None or not (path / marker).exists():
            raise FileExistsError(
                f"{path} is a folder of other things (it holds no {marker}) and is not replaced; "
                "choose another path"
            )
