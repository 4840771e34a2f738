"""Folders of image files."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from igpt_keras.data.sources.base import Source
from igpt_keras.data.splits import FileSplit
from igpt_keras.errors import InputError

SUFFIXES = {
    *(".bmp", ".gif", ".jpeg", ".jpg", ".jpe", ".jp2", ".png", ".ppm", ".pgm", ".tif", ".tiff"),
    *(".webp", ".avif"),
}
TRAIN, VALIDATION, TEST = "train", "validation", "test"


class Layout(NamedTuple):
    """How images are divided.

    Attributes:
        splits: of "train" and where they exist "validation" and "test", the indices
            int64 [M] of its images, and their labels int32 [M] or None.
        class_names: one for each label; empty without labels.
    """

    splits: dict[str, tuple[np.ndarray, np.ndarray | None]]
    class_names: list[str]


def open_folder(location: str, split: str | None) -> Source:
    """Opens a folder of images; see `layout`. Hidden files are not seen.

    Args:
        location: path of the folder.
        split: subfolder to train on instead of `train`.

    Raises:
        FileNotFoundError: no such folder.
        InputError: a folder without images, or splits whose classes differ.
    """
    if not os.path.isdir(location):
        raise FileNotFoundError(f"{location} is not a folder; expected one of images")
    names = _images(location)
    found = layout(names, split, location)
    splits = {
        key: FileSplit(
            f"folder:{location}, {key}",
            [os.path.join(location, names[index]) for index in indices],
            labels,
        )
        for key, (indices, labels) in found.splits.items()
    }
    return Source(
        splits[TRAIN], splits.get(VALIDATION), splits.get(TEST), class_names=found.class_names
    )


def layout(names: Sequence[str], split: str | None, location: str) -> Layout:
    """Divides images by their names.

    `train/<class>/…` with `test/<class>/…` (and, where there is one,
    `validation/<class>/…`); or `<class>/…` alone; or images without classes, in
    `train/` and `test/` or without any folder.

    Args:
        names: paths of images below `location`, with "/" between their components.
        split: folder to train on instead of `train`.
        location: for messages.

    Raises:
        InputError: no images, no folder to train on, or splits whose classes differ.
    """
    if not names:
        raise InputError(f"{location} holds no images (files ending in {_listed(SUFFIXES)})")
    folders = {name.partition("/")[0] for name in names if "/" in name}
    wanted = split or TRAIN
    if wanted not in folders:
        if split or folders & {VALIDATION, TEST}:
            raise InputError(
                f"{location} has no images to train on in a folder {wanted!r}; it has images in "
                f"{_listed(folders) or 'no folder'}"
            )
        prefixes = {TRAIN: ""}
    else:
        prefixes = {TRAIN: f"{wanted}/"}
        prefixes |= {key: f"{key}/" for key in (VALIDATION, TEST) if key in folders}
    rests = {
        key: {
            index: name.removeprefix(prefix)
            for index, name in enumerate(names)
            if name.startswith(prefix)
        }
        for key, prefix in prefixes.items()
    }
    class_names = _class_names(rests[TRAIN].values())
    number = {name: label for label, name in enumerate(class_names)}
    splits = {}
    for key, rest in rests.items():
        labels = None
        if class_names:
            classes = [name.rpartition("/")[0].partition("/")[0] for name in rest.values()]
            if unknown := sorted(set(classes) - number.keys()):
                raise InputError(
                    f"{location} has images in {prefixes[key]}{unknown[0]}, which is no class of "
                    "the training images"
                )
            labels = np.array([number[name] for name in classes], np.int32)
        splits[key] = np.array(list(rest), np.int64), labels
    return Layout(splits, class_names)


def _class_names(names) -> list[str]:
    """The folders that hold all images; none if an image lies in no folder."""
    folders = {name.rpartition("/")[0].partition("/")[0] for name in names}
    return [] if "" in folders else sorted(folders)


def _images(folder: str) -> list[str]:
    """Paths below `folder`, sorted."""
    names = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = pathlib.PurePath(os.path.relpath(parent, folder))
        names += [(below / name).as_posix() for name in files if is_image(name)]
    return sorted(names)


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    name = os.path.basename(name)
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _listed(names) -> str:
    return ", ".join(sorted(names))
