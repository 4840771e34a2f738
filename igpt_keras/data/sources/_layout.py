"""How the names of images divide them into splits and classes."""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from igpt_keras.data.source import TEST, TRAIN, VALIDATION
from igpt_keras.data.sources._files import LeftOut, listed
from igpt_keras.errors import InputError

# Usual names of the splits' folders, in lower case.
SPELLINGS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "val", "valid", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
HELD_OUT = (VALIDATION, TEST)
# A single folder of this name in a split's folder is no class.
IMAGES_FOLDER = "images"


def splits_of_files(files: Sequence[str]) -> list[str] | None:
    """Returns the split that each file is named after, as `web-train-07.tar` is.

    None unless every file is named after one, and some, but not all, after the training split.
    """
    words = [re.split("[^a-z]+", os.path.basename(file).lower()) for file in files]
    keys = [{SPELLINGS[word] for word in each if word in SPELLINGS} for each in words]
    if all(len(each) == 1 for each in keys):
        splits = [each.pop() for each in keys]
        if TRAIN in splits and len(set(splits)) > 1:
            return splits
    return None


def in_split_folders(names: Sequence[str], splits: Sequence[str]) -> list[str]:
    """Returns names below folders of `splits`, unless some are below such folders already."""
    if any(name.partition("/")[0].lower() in SPELLINGS for name in names if "/" in name):
        return list(names)
    return [f"{split}/{name}" for split, name in zip(splits, names, strict=True)]


class Layout(NamedTuple):
    """How a source divides its images.

    Attributes:
        splits: The indices int64 [M] and labels int32 [M] (or None) of the images of "train"
            and, where they exist, of "validation" and "test".
        class_names: A name for each label; empty without labels.
    """

    splits: dict[str, tuple[np.ndarray, np.ndarray | None]]
    class_names: list[str]


def layout(
    names: Sequence[str],
    split: str | None,
    location: str,
    left_out: LeftOut,
    folders: Sequence[str] = (),
) -> Layout:
    """Divides images into splits and classes by the folders in their names.

    Three layouts are known: `train/<class>/…` with `test/<class>/…` and, optionally,
    `validation/<class>/…`; `<class>/…` only; and images without classes, in `train/` and
    `test/` or in no folder. Splits have the names in `SPELLINGS`, in upper or lower case. A
    single folder around all of this does not count.

    Args:
        names: Paths of the images below `location`, with "/" between their components.
        split: The folder to train on instead of `train`.
        location: The source, for error messages.
        left_out: Is told of images and folders that are not used.
        folders: Paths of all folders below `location`; those without images are named.

    Raises:
        InputError: There are no images, it is unclear which are of a split, or a split has
            classes that the training images do not have.
    """
    if not names:
        found = f"; it holds {left_out}" if str(left_out) else ""
        raise InputError(f"{location} holds no images{found}")
    root = _root(names, split)
    below = [name.removeprefix(root) for name in names]
    prefixes = _prefixes(below, split, location)
    _name_unused(below, prefixes, split, left_out)
    _name_empty(names, folders, [root, *(root + prefix for prefix in prefixes.values())], left_out)
    rests = {
        key: {
            index: name.removeprefix(prefix)
            for index, name in enumerate(below)
            if name.startswith(prefix)
        }
        for key, prefix in prefixes.items()
    }
    class_names = _class_names(list(rests[TRAIN].values()), prefixes[TRAIN], left_out)
    splits = {
        key: _labeled(rest, class_names, prefixes, key, location, left_out)
        for key, rest in rests.items()
    }
    return Layout(splits, class_names)


def _root(names: Sequence[str], split: str | None) -> str:
    """The folder around all images, with "/" at its end; "" if there is none that only wraps."""
    folders = [name.split("/")[:-1] for name in names]
    common = os.path.commonprefix(folders)  # Of lists as well as of texts.
    inner = {folder[len(common)] for folder in folders if len(folder) > len(common)}
    depth = next((at for at, folder in enumerate(common) if _is_split(folder, split)), len(common))
    if depth == len(common) and len(inner) < 2 and not any(_is_split(f, split) for f in inner):
        return ""
    return "".join(f"{folder}/" for folder in common[:depth])


def _is_split(folder: str, split: str | None) -> bool:
    return folder == split or folder.lower() in SPELLINGS


def _prefixes(names: Sequence[str], split: str | None, location: str) -> dict[str, str]:
    """The folder of each split, with "/" at its end; "" if all images are for training."""
    folders = sorted({name.partition("/")[0] for name in names if "/" in name})
    found: dict[str, list[str]] = {}
    for folder in folders:
        if folder.lower() in SPELLINGS:
            found.setdefault(SPELLINGS[folder.lower()], []).append(folder)
    if split is not None:
        if any(split in found.get(key, []) for key in HELD_OUT):
            raise InputError(f"{location} has no split {split!r} to train on, but to measure on")
        found[TRAIN] = [split] if split in folders else []
    for key, same in found.items():
        if len(same) > 1:
            raise InputError(
                f"{location} must have one folder of {key} images, got {listed(same)}; move the "
                "images of one to another place"
            )
    if found.get(TRAIN):
        return {TRAIN: f"{found[TRAIN][0]}/"} | {
            key: f"{found[key][0]}/" for key in HELD_OUT if key in found
        }
    if found or split is not None:
        raise InputError(
            f"{location} has no images to train on in a folder {split or TRAIN!r}; it has images "
            f"in {listed(folders) or 'no folder'}"
        )
    return {TRAIN: ""}


def _name_unused(
    names: Sequence[str], prefixes: dict[str, str], split: str | None, left_out: LeftOut
) -> None:
    """Names images outside of the splits' folders, and splits inside of classes."""
    used = tuple(prefixes.values())
    for name in names:
        if not name.startswith(used):
            folder, slash, _ = name.partition("/")
            if not slash:
                left_out.add(f"image{{s}} beside {prefixes[TRAIN]}", name)
            # Who names the split to train on knows that others are not.
            elif split is None or SPELLINGS.get(folder.lower()) != TRAIN:
                left_out.add(f"image{{s}} in {folder}/", name)
    if prefixes == {TRAIN: ""}:
        inner = {"/".join(name.split("/")[:2]) for name in names if name.count("/") > 1}
        inner = {name for name in inner if SPELLINGS.get(name.split("/")[1].lower()) in HELD_OUT}
        if inner:
            left_out.note(f"{listed(inner)} is inside of a class, so it is trained on as well")


def _name_empty(
    names: Sequence[str], folders: Sequence[str], parents: Sequence[str], left_out: LeftOut
) -> None:
    """Names folders of splits and classes, which are those in `parents`, without images."""
    with_images = {
        f"{parent}{name.removeprefix(parent).partition('/')[0]}"
        for name in names
        for parent in parents
        if name.startswith(parent)
    }
    places = {parent.rstrip("/") for parent in parents}
    empty = [
        folder
        for folder in folders
        if folder.rpartition("/")[0] in places and folder not in with_images
    ]
    left_out.add("folder{s} without images", *empty)


def _class_names(names: Sequence[str], prefix: str, left_out: LeftOut) -> list[str]:
    """The names of the classes: folders, unless many images lie beside them."""
    folders = [name.partition("/")[0] for name in names if "/" in name]
    classes, beside = sorted(set(folders)), len(names) - len(folders)
    if prefix and [folder.lower() for folder in classes] == [IMAGES_FOLDER]:
        return []
    if not beside or (len(classes) > 1 and beside < len(folders)):
        return classes
    if classes:
        left_out.note(
            f"there are no classes, because {beside:,} of {len(names):,} images lie beside the "
            f"folders {listed(classes[:5])}{', …' if len(classes) > 5 else ''}"
        )
    return []


def _labeled(
    rest: dict[int, str],
    class_names: Sequence[str],
    prefixes: dict[str, str],
    key: str,
    location: str,
    left_out: LeftOut,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The indices of a split's images, and their labels; `rest` are their names below its folder.

    Images beside class folders are left out.
    """
    if not class_names:
        return np.array(list(rest), np.int64), None
    prefix = prefixes[key]
    label_of = {name: label for label, name in enumerate(class_names)}
    class_of = {index: name.partition("/")[0] for index, name in rest.items() if "/" in name}
    if unknown := sorted(set(class_of.values()) - label_of.keys()):
        raise InputError(
            f"{location} has images in {prefix}{unknown[0]}, which is no class of the training "
            "images"
        )
    if not class_of:
        raise InputError(
            f"{location} has no class folders in {prefix}, but it has some in {prefixes[TRAIN]}; "
            "move its images into folders of their classes, or elsewhere"
        )
    beside = [f"{prefix}{name}" for index, name in rest.items() if index not in class_of]
    left_out.add("image{s} beside class folders", *beside)
    labels = np.array([label_of[name] for name in class_of.values()], np.int32)
    return np.array(list(class_of), np.int64), labels
