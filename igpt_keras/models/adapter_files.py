"""Folders of adapters: what was trained, without the pre-trained weights that it goes with.

| file | content |
| --- | --- |
| `adapters.json` | rank, fingerprint of the pre-trained network, layer of the head, classes |
| `adapters.safetensors` | the matrices A and B of each adapter, and the class head |
"""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
from keras import ops
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from igpt_keras.atomic import atomic_path
from igpt_keras.convert.stored_model import check_tensors
from igpt_keras.errors import InputError
from igpt_keras.json_files import read_object, write_json

CONFIG_FILE = "adapters.json"
WEIGHTS_FILE = "adapters.safetensors"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class StoredAdapters:
    """The content of a folder of adapters.

    Attributes:
        file: The file of the weights, for error messages.
        rank: Rank of the adapters.
        base: `path` and `fingerprint` of the pre-trained network.
        reads: The settings that decide on what the class head is given.
        class_names: Names of the classes.
        arrays: The weights by name.
    """

    file: pathlib.Path
    rank: int
    base: dict[str, Any]
    reads: dict[str, Any]
    class_names: list[str]
    arrays: dict[str, np.ndarray]


def write(
    path: str | os.PathLike, about: dict[str, Any], weights: dict[str, Any], overwrite: bool
) -> pathlib.Path:
    """Writes a folder of adapters, whole or not at all, and returns its path."""
    path = pathlib.Path(path).expanduser()
    arrays = {name: np.ascontiguousarray(ops.convert_to_numpy(w)) for name, w in weights.items()}
    with atomic_path(path, overwrite, marker=CONFIG_FILE) as partial:
        partial.mkdir()
        write_json(partial / CONFIG_FILE, {"format_version": FORMAT_VERSION, **about})
        try:
            save_file(arrays, partial / WEIGHTS_FILE)
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error
    return path


def read(path: str | os.PathLike) -> StoredAdapters:
    """Reads a folder of adapters.

    Raises:
        InputError: A file is missing or damaged, or of another version.
    """
    path = pathlib.Path(path).expanduser()
    file, weights = path / CONFIG_FILE, path / WEIGHTS_FILE
    about = read_object(file)
    version = about.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{file} has format_version {version}; this version reads {FORMAT_VERSION}"
        )
    try:
        rank, class_names = about["rank"], list(map(str, about["class_names"]))
        base, reads = dict(about["base"]), dict(about["reads"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} does not describe adapters: {error!r}") from None
    if type(rank) is not int or rank < 1:
        raise InputError(f"{file}: rank must be an integer of at least 1, got {rank!r:.200}")
    try:
        arrays = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{weights} is missing or damaged: {error}") from error
    return StoredAdapters(weights, rank, base, reads, class_names, arrays)


def check(stored: StoredAdapters, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises `InputError` unless the weights are those that `shapes` lists, for each class one."""
    found = {name: array.shape for name, array in stored.arrays.items()}
    check_tensors(stored.file, shapes.items(), found)
    num_classes = shapes["class_head.kernel"][1]
    if len(stored.class_names) != num_classes:
        raise InputError(
            f"{stored.file.parent / CONFIG_FILE}: class_names must hold {num_classes} names, "
            f"got {len(stored.class_names)}"
        )
