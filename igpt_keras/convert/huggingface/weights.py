"""The weights in a folder of Transformers, none of which is read before it is needed.

Files come from anyone. Names and shapes are known without reading a tensor, a file cannot claim
tensors larger than itself, and an index of shards leads nowhere but to files of its folder.
"""

import dataclasses
import importlib
import math
import pathlib
import re
import types
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import safetensors

from igpt_keras.convert.huggingface.layout import (
    CLASS_HEAD,
    PREFIX,
    SHARDS_FILE,
    TOKEN_HEAD,
    TORCH_FILE,
    WEIGHTS_FILE,
)
from igpt_keras.errors import InputError, first_line
from igpt_keras.json_files import read_object

# As safetensors and PyTorch call them.
FLOATING_TYPES = ("F64", "F32", "F16", "BF16") + tuple(
    f"torch.{name}" for name in ("float64", "float32", "float16", "bfloat16")
)

# Older files store the causal mask as well.
CAUSAL_MASK_BUFFER = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: shape and type, and a function that reads it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def open_weights(folder: pathlib.Path) -> tuple[pathlib.Path, dict[str, StoredTensor]]:
    """Returns the file that lists the weights, and the weights by their full names.

    Raises:
        InputError: There is no such file, it is damaged, or it names a file outside `folder`.
    """
    openers = {WEIGHTS_FILE: _open_safetensors, SHARDS_FILE: _open_shards, TORCH_FILE: _open_torch}
    for file_name, open_file in openers.items():
        file = folder / file_name
        if file.is_file():
            tensors = {
                _full_name(name): tensor
                for name, tensor in open_file(file)
                if not CAUSAL_MASK_BUFFER.fullmatch(name)
            }
            for name, tensor in tensors.items():
                if tensor.dtype not in FLOATING_TYPES:
                    raise InputError(
                        f"{file}: {name} must hold floating-point numbers, got {tensor.dtype}"
                    )
            return file, tensors
    raise InputError(f"{folder} holds neither {WEIGHTS_FILE} nor {TORCH_FILE}")


def _full_name(name: str) -> str:
    if name in (TOKEN_HEAD, CLASS_HEAD) or name.startswith(PREFIX):
        return name
    return PREFIX + name


def _open_safetensors(file: pathlib.Path) -> Iterator[tuple[str, StoredTensor]]:
    try:
        # The header is checked here: its length, and that tensors fill the file exactly.
        opened = safetensors.safe_open(file, "np")
        for name in opened.keys():
            found = opened.get_slice(name)
            yield (
                name,
                StoredTensor(
                    tuple(found.get_shape()),
                    found.get_dtype(),
                    lambda name=name: opened.get_tensor(name),
                ),
            )
    except FileNotFoundError:
        raise InputError(f"{file} is missing") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{file} is damaged or not a safetensors file: {error}") from None


def _open_shards(file: pathlib.Path) -> Iterator[tuple[str, StoredTensor]]:
    weight_map = read_object(file).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(x, str) for x in weight_map.values()):
        raise InputError(f"{file}: weight_map must name the file of each tensor")
    shards = {
        shard: dict(_open_safetensors(_inside(file, shard)))
        for shard in sorted(set(weight_map.values()))
    }
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise InputError(f"{file}: weight_map looks for {name} in {shard}, which lacks it")
        yield name, shards[shard][name]


def _inside(index: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path of a shard; raises `InputError` if it is outside the index's folder."""
    folder, file = index.parent, index.parent / name
    if pathlib.PurePath(name).name != name:
        raise InputError(f"{index}: weight_map must hold names of files next to it, got {name!r}")
    if not file.is_file():
        raise InputError(f"{folder / ascii(name)[1:-1]} is missing")
    root = folder.resolve()
    if root.parent.name == "snapshots":
        # The cache of huggingface_hub: its files are links to <model>/blobs.
        root = root.parent.parent
    if not file.resolve().is_relative_to(root):
        raise InputError(
            f"{file} is a link out of its folder, to {file.resolve()}; put the file itself there"
        )
    return file


def _open_torch(file: pathlib.Path) -> Iterator[tuple[str, StoredTensor]]:
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError:
        raise InputError(
            f"reading {file} needs PyTorch: pip install torch, "
            f"or put the {WEIGHTS_FILE} of the same model next to it"
        ) from None
    tensors = _load_torch(torch, file)
    if not isinstance(tensors, dict):
        raise InputError(f"{file} must hold weights by name, got a {type(tensors).__name__}")
    total = 0
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise InputError(f"{file}: {name} must be a dense tensor")
        # A view may repeat a number without end.
        total += math.prod(tensor.shape) * tensor.element_size()
        if total > file.stat().st_size:
            raise InputError(
                f"{file}: its tensors claim more than the {file.stat().st_size:,} bytes of the file"
            )
        yield (
            str(name),
            StoredTensor(
                tuple(tensor.shape), str(tensor.dtype), lambda tensor=tensor: tensor.float().numpy()
            ),
        )


def _load_torch(torch: types.ModuleType, file: pathlib.Path) -> Any:
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(member.compress_type for member in archive.infolist()):
                    raise InputError(f"{file} is compressed; PyTorch writes it uncompressed")
        return torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # PyTorch has no exception of its own for a damaged file.
        raise InputError(
            f"{file} is damaged or not a file of weights: {first_line(error)}"
        ) from error
