"""TFRecord files of `tf.train.Example`, read as they are."""

import os
import struct
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from igpt_keras.data.source import TRAIN, Source
from igpt_keras.data.sources import register_source
from igpt_keras.data.sources._files import matching_files
from igpt_keras.data.splits import UNLABELED, FileRangeSplit, Record
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
    lengths of their records; if there are labels, it reads everything once.

    Args:
        location: Pattern of paths, with `*`, `?` and `[…]`.

    Raises:
        FileNotFoundError: No file matches.
        InputError: A file is of another kind, or its examples hold no images.
    """
    files = matching_files(location)
    ranges = [(index, *found) for index, file in enumerate(files) for found in _records(file)]
    if not ranges:
        raise InputError(f"tfrecord:{location} holds no records")
    split = TFRecordSplit(f"tfrecord:{location}, {TRAIN}", files, np.array(ranges, np.int64))
    return Source(split, class_names=split.class_names)


class TFRecordSplit(FileRangeSplit):
    """Images in records of `tf.train.Example`; see `open_tfrecord`.

    Args:
        name: Name for error messages.
        files: Paths of the TFRecord files.
        ranges: int64 [N, 3], see `FileRangeSplit`.

    Attributes:
        class_names: The labels' numbers as text; empty without labels.
    """

    def __init__(self, name: str, files: Sequence[str], ranges: np.ndarray):
        names = [f"{files[which]} at {offset}" for which, offset, _ in ranges]
        super().__init__(name, files, ranges, names)
        self.class_names: list[str] = []
        if self[0].label == UNLABELED:
            return
        labels = np.array([self[index].label for index in range(self.num_examples)])
        if (labels < 0).any():
            unlabeled = names[int((labels < 0).argmax())]
            raise InputError(f"{unlabeled} has no label, but the first record has one")
        self.labels, self.labeled = labels.astype(np.int32), True
        self.class_names = [str(label) for label in range(labels.max() + 1)]

    def __getitem__(self, index: int) -> Record:
        content, _, name = super().__getitem__(index)
        try:
            features = tf.train.Example.FromString(content).features.feature
        except DecodeError as error:
            raise InputError(f"{name} is not a tf.train.Example ({error})") from None
        images = [features[key].bytes_list.value for key in IMAGE_KEYS if key in features]
        image = next((values[0] for values in images if values), None)
        if image is None:
            raise InputError(
                f"{name} must hold an image file under one of {', '.join(IMAGE_KEYS)}; "
                f"it holds {', '.join(sorted(features))}"
            )
        labels = [features[key].int64_list.value for key in LABEL_KEYS if key in features]
        label = next((values[0] for values in labels if values), UNLABELED)
        return Record(image, label, name)


def _records(path: str) -> Iterator[tuple[int, int]]:
    """Yields offset and size of the content of every record."""
    end = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
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
