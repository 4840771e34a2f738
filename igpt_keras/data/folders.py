"""Folders of image files."""

import pathlib

from igpt_keras.data.parts import FilePart
from igpt_keras.data.sources import Source
from igpt_keras.errors import InputError

SUFFIXES = {
    *(".bmp", ".gif", ".jpeg", ".jpg", ".jpe", ".jp2", ".png", ".ppm", ".pgm", ".tif", ".tiff"),
    *(".webp", ".avif"),
}
TRAIN, VALIDATION, TEST = "train", "validation", "test"


def open_folder(location: str, split: str | None) -> Source:
    """Reads the layout of a folder of images.

    `train/<class>/…` with `test/<class>/…` (and, where there is one,
    `validation/<class>/…`); or `<class>/…` alone; or images without classes, in
    `train/` and `test/` or directly in the folder. Hidden files are not seen.

    Args:
        location: path of the folder.
        split: folder to train on instead of `train`.

    Raises:
        FileNotFoundError: no such folder.
        InputError: a folder without images, or splits whose classes differ.
    """
    root = pathlib.Path(location)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; expected one of images")
    train_folder = root / (split or TRAIN)
    if not train_folder.is_dir():
        if split:
            raise FileNotFoundError(f"{root} has no folder {split!r} to train on")
        train_folder = root
    class_names = _class_names(train_folder)
    parts = {
        name: _part(root / name, class_names, f"folder:{location}, {name}")
        for name in (VALIDATION, TEST)
        if train_folder != root and (root / name).is_dir()
    }
    return Source(
        train=_part(train_folder, class_names, f"folder:{location}, {train_folder.name}"),
        validation=parts.get(VALIDATION),
        test=parts.get(TEST),
        class_names=class_names,
    )


def _class_names(folder: pathlib.Path) -> list[str]:
    """The subfolders that hold images, unless images lie in `folder` itself."""
    if _images(folder.iterdir()):
        return []
    return sorted(path.name for path in _visible(folder.iterdir()) if _images(path.rglob("*")))


def _part(folder: pathlib.Path, class_names: list[str], name: str) -> FilePart:
    if not class_names:
        paths = _images(folder.rglob("*"))
        _check_any(paths, folder)
        return FilePart(name, paths)
    others = sorted({path.name for path in _visible(folder.iterdir())} - set(class_names))
    if others and folder.name in (VALIDATION, TEST):
        raise InputError(f"{folder} holds {others[0]!r}, which is no class of the training images")
    paths, labels = [], []
    for label, class_name in enumerate(class_names):
        of_class = _images((folder / class_name).rglob("*"))
        paths += of_class
        labels += [label] * len(of_class)
    _check_any(paths, folder)
    return FilePart(name, paths, labels)


def _visible(paths) -> list[pathlib.Path]:
    return [path for path in paths if path.is_dir() and not path.name.startswith(".")]


def _images(paths) -> list[pathlib.Path]:
    return sorted(
        path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def _check_any(paths, folder) -> None:
    if not paths:
        raise InputError(
            f"{folder} holds no images (files ending in {', '.join(sorted(SUFFIXES))})"
        )
