"""Images in NumPy's files."""

import os

import numpy as np

from igpt_keras.data.sources.base import Source
from igpt_keras.data.splits import ArraySplit
from igpt_keras.errors import InputError

# What images and labels of a split are called: here, and in the files of `keras.datasets`.
KEYS = {
    "train": (("images", "labels"), ("train_images", "train_labels"), ("x_train", "y_train")),
    "validation": (("validation_images", "validation_labels"), ("x_val", "y_val")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}


def open_arrays(location: str) -> Source:
    """Opens images uint8 [N, H, W, 3], [N, H, W, 1] or [N, H, W].

    Args:
        location: a .npy file of images without labels, which is mapped, not read; or
            a .npz file of arrays called as in `KEYS`, of which only the training
            images are required.

    Raises:
        FileNotFoundError: no such file.
        InputError: a file or arrays of another kind.
    """
    suffix = os.path.splitext(location)[1]
    if suffix not in (".npy", ".npz"):
        raise InputError(f"array:{location} must end in .npy or .npz")
    if not os.path.exists(location):
        raise FileNotFoundError(f"{location} does not exist; expected a file of images")
    try:
        if suffix == ".npy":
            arrays = {"images": np.load(location, mmap_mode="r", allow_pickle=False)}
        else:
            with np.load(location, allow_pickle=False) as file:
                arrays = dict(file)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"array:{location} is not a file of plain arrays: {error}") from None
    splits = {key: _split(location, key, arrays) for key in KEYS}
    train = splits["train"]
    if train is None:
        raise InputError(
            f"array:{location} must hold images under one of "
            f"{', '.join(images for images, _ in KEYS['train'])}; it holds {', '.join(arrays)}"
        )
    labeled = [split for split in splits.values() if split is not None and split.labeled]
    classes = 0
    if train.labeled:
        classes = 1 + max(int(split.labels.max()) for split in labeled)
    return Source(**splits, class_names=[str(label) for label in range(classes)])


def _split(location: str, key: str, arrays) -> ArraySplit | None:
    for images_key, labels_key in KEYS[key]:
        if images_key in arrays:
            images = _checked(arrays[images_key], f"array:{location}, {images_key}")
            labels = arrays.get(labels_key)
            if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:
                # As Keras gives those of CIFAR.
                labels = labels[:, 0]
            return ArraySplit(f"array:{location}, {key}", images, labels)
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
