"""Folders of tokens that `igpt tokenize` wrote."""

import concurrent.futures
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from igpt_keras.data.source import TEST, TRAIN, VALIDATION, Source
from igpt_keras.data.sources import register_source
from igpt_keras.data.splits import Record, check_count, held_out_count
from igpt_keras.data.streamed_split import StreamedSplit
from igpt_keras.data.token_files import (
    ShardFile,
    TokensManifest,
    parse_example,
    read_folder_tokenizer,
    tokens_of_bytes,
)
from igpt_keras.errors import InputError
from igpt_keras.file_systems import expanded, usual_errors
from igpt_keras.tokenizers import ImageTokenizer

# Shards that are read in turn while shuffling, and images that are taken of each at a time.
CYCLE_LENGTH, BLOCK_LENGTH = 16, 16
STAT_THREADS = 16


@register_source("tokens")
def open_tokens(location: str) -> Source:
    """Opens a folder of tokens; nothing is decoded when they are read.

    The splits are those of the data set that was tokenized.

    Args:
        location: Path of the folder, or one on another file system, such as `gs://…`.

    Raises:
        FileNotFoundError: There is no such folder, or a shard of it is missing.
        InputError: A shard has another size than it was written with, or a file is damaged.
    """
    folder = expanded(location)
    with usual_errors():
        manifest = TokensManifest.read(folder)
        tokenizer = read_folder_tokenizer(folder)
    if tokenizer.fingerprint() != manifest.tokenizer:
        raise InputError(f"tokens:{location} is damaged: it was not made with its tokenizer")
    if TRAIN not in manifest.splits:
        raise InputError(f"tokens:{location} has no split to train on")
    shards = [shard for shards in manifest.splits.values() for shard in shards]
    with concurrent.futures.ThreadPoolExecutor(STAT_THREADS) as threads:
        # Raises the first error.
        list(threads.map(lambda shard: _check_shard(folder, shard), shards))
    splits = {
        name: TokensSplit(
            f"tokens:{location}, {name}",
            folder,
            shards,
            manifest.dtype,
            tokenizer.bind(manifest.image_size),
            labeled=bool(manifest.class_names),
        )
        for name, shards in manifest.splits.items()
    }
    return Source(splits[TRAIN], splits.get(VALIDATION), splits.get(TEST), manifest.class_names)


class TokensSplit(StreamedSplit):
    """Tokens in TFRecord files; see `igpt_keras.data.token_files`.

    Args:
        name: Name for error messages.
        folder: Folder of the files.
        shards: The files.
        dtype: Name of the dtype of the stored tokens.
        tokenizer: The tokenizer that made them, for images of one size.
        labeled: Whether the images have labels.
        kept: bool, which images of the files belong to the split; None for all.
    """

    def __init__(
        self,
        name: str,
        folder: str,
        shards: Sequence[ShardFile],
        dtype: str,
        tokenizer: ImageTokenizer,
        *,
        labeled: bool,
        kept: np.ndarray | None = None,
    ):
        counts = [shard.num_examples for shard in shards]
        self.name = name
        self.labeled = labeled
        self.tokenizer = tokenizer
        self._folder, self._shards, self._dtype = folder, list(shards), dtype
        self._kept = np.ones(sum(counts), bool) if kept is None else kept
        self.num_examples = check_count(int(self._kept.sum()), name)
        self._firsts = np.cumsum([0, *counts[:-1]]).astype(np.int64)

    def references(self, seed: tf.Tensor | None) -> tf.data.Dataset:
        shards = tf.data.Dataset.range(len(self._shards))
        if seed is None:
            references = shards.flat_map(self._read)
        else:
            shuffle_seed: Any = seed  # Declared as int; tensors work as well.
            references = shards.shuffle(
                len(self._shards), seed=shuffle_seed, reshuffle_each_iteration=False
            ).interleave(
                self._read,
                cycle_length=CYCLE_LENGTH,
                block_length=BLOCK_LENGTH,
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
        if self._kept.all():
            return references
        kept = tf.constant(self._kept)
        return references.filter(lambda reference: tf.gather(kept, reference["index"]))

    def _read(self, shard: tf.Tensor) -> tf.data.Dataset:
        """Returns the references of the shard at an index, in order."""
        paths = [os.path.join(self._folder, shard.file) for shard in self._shards]

        def reference(index: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
            example = parse_example(record)
            return {
                "index": index,
                "image_bytes": example["tokens"],
                "label": tf.cast(example["label"], tf.int32),
                "name": example["id"],
            }

        records = tf.data.TFRecordDataset(tf.gather(tf.constant(paths), shard))
        return records.enumerate(tf.gather(tf.constant(self._firsts), shard)).map(reference)

    def record(self, index: int, image_bytes: bytes, label: int, name: bytes) -> Record:
        tokens = tokens_of_bytes(image_bytes, self._dtype)
        return Record(tokens, int(label), name.decode("utf-8", "backslashreplace"))

    def hold_out(self, fraction: float, seed: int) -> "tuple[TokensSplit, TokensSplit]":
        count = held_out_count(self, fraction)
        order = np.random.default_rng(seed).permutation(np.flatnonzero(self._kept))
        held_out = np.zeros_like(self._kept)
        held_out[order[:count]] = True
        return (
            self._with(self.name, self._shards, self._kept & ~held_out),
            self._with(f"{self.name} (held out)", self._shards, held_out),
        )

    def joined(self, other: "TokensSplit") -> "TokensSplit":
        name = f"{self.name} + {other.name}"
        kept = np.concatenate([self._kept, other._kept])
        return self._with(name, [*self._shards, *other._shards], kept)

    def _with(self, name: str, shards: Sequence[ShardFile], kept: np.ndarray) -> "TokensSplit":
        assert self.tokenizer is not None
        return TokensSplit(
            name, self._folder, shards, self._dtype, self.tokenizer, labeled=self.labeled, kept=kept
        )

    def fingerprint(self) -> str:
        assert self.tokenizer is not None
        digest = hashlib.sha256(f"{self.tokenizer.fingerprint()} {self.labeled}".encode())
        for shard in self._shards:
            digest.update(shard.sha256.encode())
        digest.update(np.packbits(self._kept).tobytes())
        return digest.hexdigest()


def _check_shard(folder: str, shard: ShardFile) -> None:
    """Raises `InputError` if a shard is not as long as when it was written."""
    path = os.path.join(folder, shard.file)
    try:
        size = tf.io.gfile.stat(path).length
    except tf.errors.NotFoundError:
        raise FileNotFoundError(f"{path} is missing; igpt tokenize makes it again") from None
    if size != shard.bytes:
        raise InputError(
            f"{path} must have {shard.bytes:,} bytes, got {size:,}; igpt tokenize makes it again"
        )
