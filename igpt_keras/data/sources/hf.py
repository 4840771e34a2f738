"""Data sets of the Hugging Face Hub (the extra `datasets`)."""

import hashlib
import os
from types import ModuleType
from typing import Any

from igpt_keras.data.files import printable, read_image_file
from igpt_keras.data.source import TEST, TRAIN, VALIDATION, Source
from igpt_keras.data.sources import register_source
from igpt_keras.data.sources._files import LeftOut
from igpt_keras.data.splits import UNLABELED, IndexedSplit, Record, check_count
from igpt_keras.errors import InputError
from igpt_keras.extras import require

LABEL_KEYS = ("label", "labels", "fine_label")


@register_source("hf")
def open_hf(
    location: str, split: str | None = None, data_dir: str | os.PathLike | None = None
) -> Source:
    """Opens a data set that `datasets.load_dataset` loads; downloads it first if necessary.

    The image is the column `image`, or the first one of images; the label is `label`, `labels`
    or `fine_label`, or the first one of classes. With `HF_HUB_OFFLINE=1` only data sets in the
    cache are found. A data set whose test images have no labels is tested on its validation
    images.

    Args:
        location: `NAME[:CONFIG]`, where the name is that of a data set on the Hub, such as
            `uoft-cs/cifar10`, or the path of a folder with Parquet, Arrow or image files.
        split: Name of the split to train on instead of `train`.
        data_dir: Folder of the cache; None for the default of the library (`HF_DATASETS_CACHE`,
            or ~/.cache/huggingface/datasets).

    Raises:
        InputError: The library is not installed, it cannot load the data set, or the data set
            has no images.
    """
    datasets = require("datasets", "datasets")
    source = f"hf:{printable(location)}"
    loaded = _load(datasets, location, source, data_dir)
    wanted = split or TRAIN
    trainable = sorted(loaded.keys() - {VALIDATION, TEST})
    if wanted not in trainable:
        raise InputError(
            f"{source} has no split {wanted!r} to train on; it has {', '.join(sorted(loaded))}"
        )
    image, label = _columns(datasets, loaded[wanted].features, source)

    def open_split(key: str) -> HubSplit:
        undecoded = loaded[key].cast_column(image, datasets.Image(decode=False))
        return HubSplit(f"{source}, {key}", undecoded, image, label)

    train = open_split(wanted)
    held_out = {key: open_split(key) for key in (TEST, VALIDATION) if key in loaded}
    left_out = LeftOut(source)
    if train.labeled:
        unlabeled = [key for key, other in held_out.items() if not other.labeled]
        left_out.add("split{s} without labels", *unlabeled)
        held_out = {key: other for key, other in held_out.items() if other.labeled}
    left_out.warn()
    if TEST not in held_out and VALIDATION in held_out:
        held_out[TEST] = held_out.pop(VALIDATION)
    classes = loaded[wanted].features[label].names if train.labeled else []
    return Source(train, held_out.get(VALIDATION), held_out.get(TEST), list(classes))


class HubSplit(IndexedSplit):
    """A split of a data set of the Hub.

    Args:
        name: Name for error messages.
        rows: The `datasets.Dataset`, whose images are not decoded.
        image: Name of the column of images.
        label: Name of the column of classes, or None.
    """

    def __init__(self, name: str, rows: Any, image: str, label: str | None):
        self.name = name
        self.num_examples = check_count(len(rows), name)
        # Splits without labels have -1 in the place of each.
        self.labeled = label is not None and rows[0][label] not in (None, UNLABELED)
        self._rows = rows.select_columns([image, label] if label and self.labeled else [image])
        self._image, self._label = image, label
        self._fingerprint: str | None = None

    def __getitem__(self, index: int) -> Record:
        content, label, path = self._read(index)
        name = f"{self.name} #{index}" + (f" ({printable(path)})" if path else "")
        return Record(content, label, name, str(index))

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for index in range(self.num_examples):
                content, label, _ = self._read(index)
                digest.update(f"{label} {len(content)} ".encode())
                digest.update(content)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _read(self, index: int) -> tuple[bytes, int, str | None]:
        """Returns the bytes of an image, its label, and the name of its file if it has one."""
        row = self._rows[index]
        content, path = row[self._image]["bytes"], row[self._image]["path"]
        label = int(row[self._label]) if self.labeled else UNLABELED
        return (read_image_file(path) if content is None else content), label, path


def _load(
    datasets: ModuleType, location: str, source: str, data_dir: str | os.PathLike | None
) -> Any:
    """Returns the splits of a data set by name."""
    name, _, config = location.partition(":")
    try:
        return datasets.load_dataset(
            os.path.expanduser(name),
            config or None,
            cache_dir=None if data_dir is None else os.path.expanduser(data_dir),
        )
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{source} is not a data set that the library datasets can load ({reason}); without "
            "a network, load it elsewhere and pass the folder of the cache as data_dir"
        ) from error


def _columns(datasets: ModuleType, features: Any, source: str) -> tuple[str, str | None]:
    """Returns the names of the columns of images and of classes."""

    def first(kind: type, preferred: tuple[str, ...]) -> str | None:
        names = (*preferred, *features)
        return next((key for key in names if isinstance(features.get(key), kind)), None)

    image = first(datasets.Image, ("image",))
    if image is None:
        raise InputError(f"{source} has no images in its columns: {', '.join(features)}")
    return image, first(datasets.ClassLabel, LABEL_KEYS)
