"""TFRecord files of `tf.train.Example`, read as they are."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from igpt_keras.data.file_splits import FileRangeSplit
from igpt_keras.data.files import check_regular, open_regular, printable
from igpt_keras.data.source import TEST, TRAIN, VALIDATION, Source
from igpt_keras.data.sources import register_source
from igpt_keras.data.sources._files import matching_files, numbered_classes
from igpt_keras.data.sources._layout import splits_of_files
from igpt_keras.data.splits import UNLABELED, Record
from igpt_keras.errors import InputError

IMAGE_KEYS = ("image/encoded", "image", "jpg", "jpeg", "png")
LABEL_KEYS = ("image/class/label", "label")
# A record is its length (uint64), the length's checksum (uint32), the content and the content's
# checksum (uint32).
HEADER_SIZE, FOOTER_SIZE = 12, 4


@register_source("tfrecord")
def open_tfrecord(location: str) -> Source:
    """Opens TFRecord files of `tf.train.Example` whose paths match a pattern, to train on.

    Images are found under `IMAGE_KEYS`, labels under `LABEL_KEYS`. Opening the files reads the
    lengths of their records; if there are labels, it reads everything once. Where every file is
    named after a split, as `train-0.tfrecord` and `validation-0.tfrecord` are, its images
    belong to that.

    Args:
        location: Pattern of paths, with `*`, `?` and `[…]`.

    Raises:
        FileNotFoundError: No file matches.
        InputError: A file is of another kind, or its examples hold no images.
    """
    source = f"tfrecord:{printable(location)}"
    files = matching_files(location)
    ranges = [(index, *found) for index, file in enumerate(files) for found in _records(file)]
    if not ranges:
        raise InputError(f"{source} holds no records")
    table = np.array(ranges, np.int64)
    splits = np.array(splits_of_files(files) or [TRAIN] * len(files))
    opened = {
        key: TFRecordSplit(f"{source}, {key}", files, table[splits[table[:, 0]] == key])
        for key in np.unique(splits).tolist()
    }
    train = opened[TRAIN]
    labels = np.concatenate([split.labels for split in opened.values()])
    class_names = numbered_classes(labels, source) if train.labeled else []
    return Source(train, opened.get(VALIDATION), opened.get(TEST), class_names)


class TFRecordSplit(FileRangeSplit):
    """Images in records of `tf.train.Example`; see `open_tfrecord`.

    Args:
        name: Name for error messages.
        files: Paths of the TFRecord files.
        ranges: int64 [N, 3], see `FileRangeSplit`.
    """

    def __init__(self, name: str, files: Sequence[str], ranges: np.ndarray):
        super().__init__(name, files, ranges)
        if self[0].label == UNLABELED:
            return
        labels = np.array([self[index].label for index in range(self.num_examples)])
        if (labels < 0).any():
            unlabeled = self.describe(int((labels < 0).argmax()))
            raise InputError(f"{unlabeled} has no label, but the first record has one")
        numbered_classes(labels, name)
        self.labels, self.labeled = labels.astype(np.int32), True

    def __getitem__(self, index: int) -> Record:
        content, _, name, image_id = super().__getitem__(index)
        try:
            features = tf.train.Example.FromString(content).features.feature
            present = set(features)  # Looking for a feature adds it.
        except DecodeError as error:
            raise InputError(f"{name} is not a tf.train.Example ({error})") from None
        image_key = next((key for key in IMAGE_KEYS if features[key].bytes_list.value), None)
        if image_key is None:
            raise InputError(
                f"{name} must hold an image file under one of {', '.join(IMAGE_KEYS)}; "
                f"it holds {', '.join(sorted(present))}"
            )
        (image,) = _only(features, image_key, "bytes_list", name)
        label_key = next((key for key in LABEL_KEYS if _holds_values(features[key])), None)
        if label_key is None:
            return Record(image, UNLABELED, name, image_id)
        (label,) = _only(features, label_key, "int64_list", name)
        return Record(image, label, name, image_id)


def _holds_values(feature: tf.train.Feature) -> bool:
    kind = feature.WhichOneof("kind")
    return kind is not None and len(getattr(feature, kind).value) > 0


def _only(features: Mapping[str, Any], key: str, kind: str, name: str) -> Sequence:
    """The values of a feature, of which there must be one.

    Raises:
        InputError: There are none of this kind, or several.
    """
    values = getattr(features[key], kind).value
    if len(values) != 1:
        noun = "integer" if kind == "int64_list" else "image"
        raise InputError(f"{name} must hold one {noun} under {key}, got {len(values)}")
    return values


def _records(path: str) -> Iterator[tuple[int, int]]:
    """Yields offset and size of the content of every record."""
    end = check_regular(path)
    with open_regular(path) as file:
        offset = 0
        while offset < end:
            file.seek(offset)
            header = file.read(HEADER_SIZE)
            size = struct.unpack("<Q", header[:8])[0] if len(header) == HEADER_SIZE else end
            if offset + HEADER_SIZE + size + FOOTER_SIZE > end:
                raise InputError(
                    f"{path} is not a TFRecord file, is compressed or is truncated "
                    f"(at byte {offset})"
                )
            yield offset + HEADER_SIZE, size
            offset += HEADER_SIZE + size + FOOTER_SIZE
