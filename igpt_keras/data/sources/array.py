"""NumPy files of images."""

import os
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from igpt_keras.data.files import (
    ALWAYS_ALLOWED_BYTES,
    MAX_EXPANSION,
    check_regular,
    printable,
)
from igpt_keras.data.source import TEST, TRAIN, VALIDATION, Source
from igpt_keras.data.sources import register_source
from igpt_keras.data.sources._files import LeftOut, listed, numbered_classes
from igpt_keras.data.splits import ArraySplit
from igpt_keras.errors import InputError

# Names of the images and labels of each split; those with "x_" and "y_" are Keras'.
KEYS = {
    TRAIN: (("images", "labels"), ("train_images", "train_labels"), ("x_train", "y_train")),
    VALIDATION: (
        *(("validation_images", "validation_labels"), ("val_images", "val_labels")),
        *(("x_val", "y_val"), ("x_valid", "y_valid"), ("x_validation", "y_validation")),
    ),
    TEST: (("test_images", "test_labels"), ("x_test", "y_test")),
}


@register_source("array")
def open_array(location: str) -> Source:
    """Opens a NumPy file of images uint8 [N, H, W, 3], [N, H, W, 1] or [N, H, W].

    Args:
        location: A .npy file of images without labels, which is mapped into memory; or a .npz
            file of arrays with names as in `KEYS`, in which the training images are required;
            other arrays are named in an `InputWarning`.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file or its arrays are of another kind, or it expands to a multiple of
            its size.
    """
    source = f"array:{printable(location)}"
    arrays, others = _read(os.path.expanduser(location), source)
    left_out = LeftOut(source)
    left_out.add("array{s}", *others)
    splits = {key: _open_split(source, key, arrays) for key in KEYS}
    train = splits[TRAIN]
    if train is None:
        raise InputError(
            f"{source} must hold images under one of "
            f"{', '.join(images for images, _ in KEYS[TRAIN])}; it holds "
            f"{listed([*arrays, *others]) or 'no array'}"
        )
    left_out.warn()
    class_names = []
    if train.labeled:
        labeled = [split for split in splits.values() if split is not None and split.labeled]
        class_names = numbered_classes(np.concatenate([s.labels for s in labeled]), source)
    return Source(train, splits[VALIDATION], splits[TEST], class_names)


def _read(location: str, source: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the arrays of a file, and the names of those that are not used."""
    suffix = os.path.splitext(location)[1]
    if suffix not in (".npy", ".npz"):
        raise InputError(f"{source} must end in .npy or .npz")
    if not os.path.exists(location):
        raise FileNotFoundError(f"{location} does not exist; expected a file of images")
    size = check_regular(location)
    try:
        if suffix == ".npy":
            return {"images": np.load(location, mmap_mode="r", allow_pickle=False)}, []
        with np.load(location, allow_pickle=False) as file:
            _check_expansion(file.zip, size, source)
            used = [key for key in file.files if key in _used_keys(file.files)]
            return {key: file[key] for key in used}, sorted({*file.files} - {*used})
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{source} is not a file of plain arrays: {error}") from None
    except MemoryError:
        raise InputError(f"{source} declares arrays that do not fit into memory") from None


def _check_expansion(archive: zipfile.ZipFile, size: int, source: str) -> None:
    """Raises `InputError` if an archive of `size` bytes expands to a multiple of that."""
    total = sum(member.file_size for member in archive.infolist())
    if total > (limit := max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * size)):
        raise InputError(
            f"{source} must not expand to more than {limit:,} bytes, {MAX_EXPANSION} times its "
            f"size, got {total:,}; save it uncompressed if it is meant to"
        )


def _used_keys(keys: Sequence[str]) -> set[str]:
    """The first names of images in `KEYS` that are among `keys`, with those of their labels."""
    used = (next((pair for pair in KEYS[split] if pair[0] in keys), ()) for split in KEYS)
    return {key for pair in used for key in pair}


def _open_split(source: str, key: str, arrays: dict[str, np.ndarray]) -> ArraySplit | None:
    for images_key, labels_key in KEYS[key]:
        if images_key in arrays:
            images = _checked(arrays[images_key], f"{source}, {images_key}")
            labels = arrays.get(labels_key)
            if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:
                # keras.datasets gives CIFAR's labels in this shape.
                labels = labels[:, 0]
            return ArraySplit(f"{source}, {key}", images, labels)
    return None


def _checked(images: np.ndarray, name: str) -> np.ndarray:
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8:
        raise InputError(f"{name} must be uint8 with values 0…255, got {images.dtype}; convert it")
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise InputError(
            f"{name} must have shape [N, height, width, 3] (or 1 channel), got {list(images.shape)}"
        )
    return images
