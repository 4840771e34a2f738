"""NumPy files of images."""

import os

import numpy as np

from igpt_keras.data.source import TEST, TRAIN, VALIDATION, Source
from igpt_keras.data.sources import register_source
from igpt_keras.data.splits import ArraySplit
from igpt_keras.errors import InputError

# Names of the images and labels of each split; those with "x_" and "y_" are Keras'.
KEYS = {
    TRAIN: (("images", "labels"), ("train_images", "train_labels"), ("x_train", "y_train")),
    VALIDATION: (("validation_images", "validation_labels"), ("x_val", "y_val")),
    TEST: (("test_images", "test_labels"), ("x_test", "y_test")),
}


@register_source("array")
def open_array(location: str) -> Source:
    """Opens a NumPy file of images uint8 [N, H, W, 3], [N, H, W, 1] or [N, H, W].

    Args:
        location: A .npy file of images without labels, which is mapped into memory; or a .npz
            file of arrays with names as in `KEYS`, in which the training images are required.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file or its arrays are of another kind.
    """
    arrays = _read(location)
    splits = {key: _open_split(location, key, arrays) for key in KEYS}
    train = splits[TRAIN]
    if train is None:
        raise InputError(
            f"array:{location} must hold images under one of "
            f"{', '.join(images for images, _ in KEYS[TRAIN])}; it holds {', '.join(arrays)}"
        )
    num_classes = 0
    if train.labeled:
        labeled = [split for split in splits.values() if split is not None and split.labeled]
        num_classes = 1 + max(int(split.labels.max()) for split in labeled)
    class_names = [str(label) for label in range(num_classes)]
    return Source(train, splits[VALIDATION], splits[TEST], class_names)


def _read(location: str) -> dict[str, np.ndarray]:
    suffix = os.path.splitext(location)[1]
    if suffix not in (".npy", ".npz"):
        raise InputError(f"array:{location} must end in .npy or .npz")
    if not os.path.exists(location):
        raise FileNotFoundError(f"{location} does not exist; expected a file of images")
    try:
        if suffix == ".npy":
            return {"images": np.load(location, mmap_mode="r", allow_pickle=False)}
        with np.load(location, allow_pickle=False) as file:
            return dict(file)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"array:{location} is not a file of plain arrays: {error}") from None


def _open_split(location: str, key: str, arrays: dict[str, np.ndarray]) -> ArraySplit | None:
    for images_key, labels_key in KEYS[key]:
        if images_key in arrays:
            images = _checked(arrays[images_key], f"array:{location}, {images_key}")
            labels = arrays.get(labels_key)
            if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:
                # keras.datasets gives CIFAR's labels in this shape.
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
