"""Weights files of Keras: what one holds, checked before any of it is read, and smaller copies.

HDF5 lets a file of a few bytes declare tensors of any size, and point to other files.
"""

import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO

import h5py
import numpy as np

from igpt_keras.errors import InputError, first_line

# Groups of what is not part of the model itself.
OPTIMIZER = "optimizer"


def count_numbers(source: str | os.PathLike, file: pathlib.Path | BinaryIO) -> int:
    """Returns how many numbers the variables of a model have in a weights file.

    Args:
        source: The file's path, for error messages.
        file: What to open.

    Raises:
        InputError: It is no HDF5 file, a variable lies in another file, or a variable is
            declared larger than what is stored of it.
    """
    try:
        with h5py.File(file, "r") as opened:
            return sum(
                dataset.size or 0
                for name, dataset in _datasets(source, opened)
                if not name.startswith(f"/{OPTIMIZER}/")
            )
    except InputError:
        raise
    # h5py raises these and others, by what it stumbles over.
    except Exception as error:
        raise InputError(
            f"{source} is damaged or no weights file of Keras: {first_line(error)}"
        ) from error


def copy_weights(source: pathlib.Path, target: pathlib.Path, dtype: str) -> None:
    """Copies a weights file without the state of the optimizer.

    Args:
        source: A file that Keras has just written.
        target: The file to write.
        dtype: The dtype of the copy's floating-point numbers.

    Raises:
        InputError: A weight is too large for the dtype.
    """
    with h5py.File(source, "r") as read, h5py.File(target, "w") as written:
        _copy_attributes(read, written)

        def copy(name: str, found: h5py.Group | h5py.Dataset) -> None:
            if f"{name}/".startswith(f"{OPTIMIZER}/"):
                return
            if isinstance(found, h5py.Group):
                _copy_attributes(found, written.require_group(name))
                return
            values = found[()]
            if np.issubdtype(values.dtype, np.floating):
                with np.errstate(over="ignore"):
                    values = values.astype(dtype)
                if not np.isfinite(values).all():
                    raise InputError(f"the weights {name} are too large for {dtype}")
            _copy_attributes(found, written.create_dataset(name, data=values))

        read.visititems(copy)


def _copy_attributes(source: h5py.HLObject, target: h5py.HLObject) -> None:
    for name, value in source.attrs.items():
        target.attrs[name] = value


def _datasets(source: str | os.PathLike, root: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    groups, seen = [("", root)], set()
    while groups:
        path, group = groups.pop()
        for key in group:
            name = f"{path}/{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise InputError(f"{source}: {name} is a link; weights must lie in the file itself")
            found = group[key]
            if found in seen:
                raise InputError(f"{source}: {name} is stored under two names")
            seen.add(found)
            if isinstance(found, h5py.Group):
                groups.append((name, found))
            elif isinstance(found, h5py.Dataset):
                _check_stored(source, name, found)
                yield name, found


def _check_stored(source: str | os.PathLike, name: str, dataset: h5py.Dataset) -> None:
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{source}: {name} lies in another file")
    if dataset.nbytes > dataset.id.get_storage_size():
        raise InputError(
            f"{source}: {name} is declared with {dataset.nbytes:,} bytes, "
            f"of which {dataset.id.get_storage_size():,} are stored"
        )
