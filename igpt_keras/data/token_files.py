"""Folders of tokens: TFRecord files of the tokens of images, with their labels and ids.

A folder holds `tokens.json`, what it says below; `tokenizer/`, the tokenizer; and for each split
shards such as `train-00003-of-00016.tfrecord`. A record is a `tf.train.Example`:

| feature | value |
| --- | --- |
| `tokens` | n integers as bytes, little-endian, of the dtype that `tokens.json` names |
| `label` | an integer from 0 on; left out without labels |
| `id` | name of the image in its data set |
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from igpt_keras.data.tokenization import TokenBlock
from igpt_keras.errors import InputError
from igpt_keras.file_systems import local_copy, read_json_file
from igpt_keras.tokenizers import ImageTokenizer

MANIFEST = "tokens.json"
TOKENIZER_FOLDER = "tokenizer"
FORMAT = 1
DTYPES = ("uint8", "uint16", "int32")


@dataclasses.dataclass(frozen=True)
class ShardFile:
    """A file of a folder.

    Attributes:
        file: Its name in the folder.
        num_examples: Number of images.
        bytes: Size in bytes.
        sha256: Digest of its content.
    """

    file: str
    num_examples: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardsManifest:
    """What a folder of shards says about the images that they were made from.

    Attributes:
        source: Where the images came from: `data`, and `fingerprints` of the splits by name.
        class_names: A name for each label; empty without labels.
        splits: The shards of each split, by its name.
        bad_images: Names of the images that were left out, and what is wrong with each.
    """

    source: dict[str, Any]
    class_names: list[str]
    splits: dict[str, list[ShardFile]]
    bad_images: dict[str, str]

    @property
    def num_examples(self) -> dict[str, int]:
        """Number of images of each split, by its name."""
        return {
            name: sum(shard.num_examples for shard in shards)
            for name, shards in self.splits.items()
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokensManifest(ShardsManifest):
    """What `tokens.json` says about a folder of tokens.

    Attributes:
        tokenizer: Fingerprint of the tokenizer.
        image_size: Side of the images in pixels.
        sequence_length: Number n of tokens of an image.
        dtype: Name of the dtype of the stored tokens, one of `DTYPES`.
        augmentation: Name of the augmentation whose evaluation cropped the images.
    """

    tokenizer: str
    image_size: int
    sequence_length: int
    dtype: str
    augmentation: str

    def to_json(self) -> dict[str, Any]:
        """Returns the manifest as JSON values."""
        return {"format": FORMAT, "num_examples": self.num_examples, **dataclasses.asdict(self)}

    @classmethod
    def read(cls, folder: str) -> "TokensManifest":
        """Reads the manifest of a folder.

        Raises:
            FileNotFoundError: There is none.
            InputError: It is of another form.
        """
        path = os.path.join(folder, MANIFEST)
        content = read_json_file(path)
        if content is None:
            raise FileNotFoundError(
                f"{folder} is not a folder of tokens: it has no {MANIFEST}, which igpt tokenize "
                "writes at its end"
            )
        if content.get("format") != FORMAT:
            raise InputError(f"{path} must have the format {FORMAT}, got {content.get('format')}")
        names = [field.name for field in dataclasses.fields(cls)]
        try:
            values = {name: content[name] for name in names}
            values["splits"] = {
                name: [ShardFile(**shard) for shard in shards]
                for name, shards in values["splits"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} does not describe a folder of tokens: {error}") from None
        if values["dtype"] not in DTYPES:
            raise InputError(
                f"{path} must have a dtype of {', '.join(DTYPES)}, got {values['dtype']}"
            )
        return cls(**values)


def stored_dtype(vocabulary_size: int) -> str:
    """Returns the name of the smallest dtype that holds the tokens."""
    return DTYPES[(vocabulary_size > 1 << 8) + (vocabulary_size > 1 << 16)]


def write_token_file(path: str, blocks: Iterable[TokenBlock], dtype: str) -> int:
    """Writes a TFRecord file of tokens; returns the number of its images."""
    count = 0
    with tf.io.TFRecordWriter(path) as writer:
        for block in blocks:
            for tokens, label, image_id in zip(*block, strict=True):
                writer.write(_example(tokens.astype(_little_endian(dtype)), label, image_id))
                count += 1
    return count


def parse_example(record: tf.Tensor) -> Mapping[str, tf.Tensor]:
    """Returns a record's `tokens` as string, `label` as int64, -1 for none, and `id` as string."""
    features = {
        "tokens": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64, default_value=-1),
        "id": tf.io.FixedLenFeature([], tf.string),
    }
    return tf.io.parse_single_example(record, features)


def tokens_of_bytes(content: bytes, dtype: str) -> np.ndarray:
    """Returns stored tokens as int32 [n]."""
    return np.frombuffer(content, _little_endian(dtype)).astype(np.int32)


def read_folder_tokenizer(folder: str) -> ImageTokenizer:
    """Reads the tokenizer of a folder of tokens.

    Raises:
        FileNotFoundError: The folder has none.
        InputError: Its files are damaged.
    """
    with local_copy(os.path.join(folder, TOKENIZER_FOLDER)) as local:
        return ImageTokenizer.from_preset(local)


def _little_endian(dtype: str) -> np.dtype:
    return np.dtype(dtype).newbyteorder("<")


def _example(tokens: np.ndarray, label: int, image_id: bytes) -> bytes:
    def of_bytes(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {"tokens": of_bytes(tokens.tobytes()), "id": of_bytes(image_id)}
    if label >= 0:
        features["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    # Maps have no order unless it is asked for; the same tokens must make the same file.
    return example.SerializeToString(deterministic=True)
