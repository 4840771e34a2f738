"""Files and folders that appear whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

SUFFIX = ".unfinished"


@contextlib.contextmanager
def atomic_path(
    path: str | os.PathLike, overwrite: bool = False, marker: str | None = None
) -> Iterator[pathlib.Path]:
    """A temporary sibling of `path` that becomes `path` when the block ends well.

    The block creates a file or a folder at the yielded path. If it fails, what it
    wrote is removed and `path` is as it was.

    Args:
        path: where the result shall be; its parent folders are created.
        overwrite: whether an existing `path` is replaced.
        marker: name of a file that tells a folder of the same kind; a folder without
            it is never replaced, unless it is empty.

    Raises:
        FileExistsError: `path` exists and must not be replaced; raised before the block.
    """
    path = pathlib.Path(path).absolute()
    check_replaceable(path, overwrite, marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{path.name}.", suffix=SUFFIX, dir=path.parent
    ) as directory:
        partial = pathlib.Path(directory, "new")
        yield partial
        check_replaceable(path, overwrite, marker)
        if path.is_dir() and not path.is_symlink():
            # A folder cannot be replaced in one step: the old one moves aside first.
            path.rename(pathlib.Path(directory, "old"))
        partial.replace(path)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Removes from `folder` what `atomic_path` left there when its process was killed."""
    for path in pathlib.Path(folder).glob(f".*{SUFFIX}"):
        shutil.rmtree(path)


def check_replaceable(
    path: str | os.PathLike, overwrite: bool = False, marker: str | None = None
) -> None:
    """Raises `FileExistsError` if `path` exists and must not be replaced; see `atomic_path`."""
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise FileExistsError(
            f"{path} exists already; choose another path, or overwrite it (--overwrite)"
        )
    if os.path.isdir(path) and os.listdir(path):
        if marker is None or not os.path.exists(os.path.join(path, marker)):
            raise FileExistsError(
                f"{path} is a folder of other things (it holds no {marker}) and is not replaced; "
                "choose another path"
            )
