"""What sources of files share: patterns of paths, and how names divide images into splits."""

import glob
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from igpt_keras.data.source import TEST, TRAIN, VALIDATION
from igpt_keras.errors import InputError

SUFFIXES = {
    *(".bmp", ".gif", ".jpeg", ".jpg", ".jpe", ".jp2", ".png", ".ppm", ".pgm", ".tif", ".tiff"),
    *(".webp", ".avif"),
}


class Layout(NamedTuple):
    """How a source divides its images.

    Attributes:
        splits: The indices int64 [M] and labels int32 [M] (or None) of the images of "train"
            and, where they exist, of "validation" and "test".
        class_names: A name for each label; empty without labels.
    """

    splits: dict[str, tuple[np.ndarray, np.ndarray | None]]
    class_names: list[str]


def layout(names: Sequence[str], split: str | None, location: str) -> Layout:
    """Divides images into splits and classes by the folders in their names.

    Three layouts are known: `train/<class>/…` with `test/<class>/…` and, optionally,
    `validation/<class>/…`; `<class>/…` only; and images without classes, in `train/` and
    `test/` or in no folder.

    Args:
        names: Paths of the images below `location`, with "/" between their components.
        split: The folder to train on instead of `train`.
        location: The source, for error messages.

    Raises:
        InputError: There are no images, there is no folder to train on, or a split has classes
            that the training images do not have.
    """
    if not names:
        raise InputError(f"{location} holds no images (files ending in {_listed(SUFFIXES)})")
    prefixes = _prefixes(names, split, location)
    rests = {
        key: {
            index: name.removeprefix(prefix)
            for index, name in enumerate(names)
            if name.startswith(prefix)
        }
        for key, prefix in prefixes.items()
    }
    class_names = sorted({_first_folder(rest) for rest in rests[TRAIN].values()})
    if "" in class_names:
        class_names = []
    label_of = {name: label for label, name in enumerate(class_names)}
    splits = {}
    for key, rest in rests.items():
        labels = None
        if class_names:
            classes = [_first_folder(name) for name in rest.values()]
            if unknown := sorted(set(classes) - label_of.keys()):
                raise InputError(
                    f"{location} has images in {prefixes[key]}{unknown[0]}, which is no class of "
                    "the training images"
                )
            labels = np.array([label_of[name] for name in classes], np.int32)
        splits[key] = np.array(list(rest), np.int64), labels
    return Layout(splits, class_names)


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image; hidden files are not."""
    name = os.path.basename(name)
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def matching_files(pattern: str) -> list[str]:
    """Returns the files whose paths match a pattern with `*`, `?` and `[…]`, sorted.

    Raises:
        FileNotFoundError: No file matches.
    """
    files = sorted(path for path in glob.glob(pattern) if os.path.isfile(path))
    if not files:
        raise FileNotFoundError(f"{pattern} matches no file")
    return files


def _prefixes(names: Sequence[str], split: str | None, location: str) -> dict[str, str]:
    """The folder of each split, with "/" at its end; "" if all images are for training."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    train = split or TRAIN
    if train in folders:
        held_out = {key: f"{key}/" for key in (VALIDATION, TEST) if key in folders}
        return {TRAIN: f"{train}/"} | held_out
    if split or folders & {VALIDATION, TEST}:
        raise InputError(
            f"{location} has no images to train on in a folder {train!r}; it has images in "
            f"{_listed(folders) or 'no folder'}"
        )
    return {TRAIN: ""}


def _first_folder(name: str) -> str:
    return name.rpartition("/")[0].partition("/")[0]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
