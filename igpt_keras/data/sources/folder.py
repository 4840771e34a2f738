"""Folders of image files."""

import os
import pathlib

from igpt_keras.data.source import TEST, TRAIN, VALIDATION, Source
from igpt_keras.data.sources import register_source
from igpt_keras.data.sources._files import is_image, layout
from igpt_keras.data.splits import FileSplit


@register_source("folder")
def open_folder(location: str, split: str | None = None) -> Source:
    """Opens a folder of image files, of any depth; hidden files are left out.

    ```
    photos/train/cat/1.jpg   photos/cat/1.jpg   photos/train/1.jpg   photos/1.jpg
    photos/test/dog/2.jpg    photos/dog/2.jpg   photos/test/2.jpg    photos/2.jpg
    ```

    Args:
        location: Path of the folder.
        split: Name of the subfolder to train on instead of `train`.

    Raises:
        FileNotFoundError: There is no such folder.
        InputError: The folder holds no images, or the classes of its splits differ.
    """
    if not os.path.isdir(location):
        raise FileNotFoundError(f"{location} is not a folder; expected one of images")
    names = _image_names(location)
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


def _image_names(folder: str) -> list[str]:
    """Paths of the images below `folder`, sorted, with "/" between their components."""
    names = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = pathlib.PurePath(os.path.relpath(parent, folder))
        names += [(below / name).as_posix() for name in files if is_image(name)]
    return sorted(names)
