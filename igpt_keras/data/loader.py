"""Loading: from references to records to batches of pixels or tokens."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from igpt_keras.data.augmentation import resize_squares
from igpt_keras.data.files import UnreadableFile
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.data.splits import UNLABELED, Record, Split
from igpt_keras.errors import InputError
from igpt_keras.tokenizers import ImageTokenizer


@dataclasses.dataclass
class Loader:
    """Reads, decodes, crops, resizes and tokenizes the images that references stand for.

    Args:
        splits: The splits that references belong to.
        crops: For each split, a function from an image and its position in the stream to a
            square.
        image_size: Side R of the loaded images in pixels.
        tokenizer: Maps the images to n tokens each; None to leave pixels.
        decoder: Keeps a record of bad images, which are left out.
    """

    splits: Sequence[Split]
    crops: Sequence[Callable[[np.ndarray, int], np.ndarray]]
    image_size: int
    tokenizer: ImageTokenizer | None
    decoder: ImageDecoder

    def __post_init__(self):
        self._bad: list[set[str]] = [set() for _ in self.splits]
        if self.tokenizer is not None:
            for split in self.splits:
                _check_tokens(split, self.tokenizer)

    def load(self, references: tf.data.Dataset) -> tf.data.Dataset:
        """Maps blocks of references to blocks of images, without the bad ones.

        Args:
            references: Blocks as in `Split`, which also hold `split` int32 [K], an index in
                `splits`, and `position` int64 [K], the position in the stream.

        Returns:
            Pairs of tokens int32 [≤ K, n] (or images uint8 [≤ K, R, R, 3]) and labels int32
            [≤ K].
        """
        return self.load_with_ids(references).map(lambda values, labels, ids: (values, labels))

    def load_with_ids(self, references: tf.data.Dataset) -> tf.data.Dataset:
        """Does what `load` does, and yields the images' ids as well, string [≤ K]."""
        if self.tokenizer is None:
            dtype, shape = tf.uint8, (self.image_size, self.image_size, 3)
        else:
            dtype, shape = tf.int32, (math.prod(self.tokenizer.grid),)
        columns = ("split", "position", "index", "image_bytes", "label", "name")

        def load_block(block: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            values, labels, ids = tf.numpy_function(
                lambda *columns: self._load(zip(*columns, strict=True)),
                [block[column] for column in columns],
                [dtype, tf.int32, tf.string],
                stateful=False,
            )
            values = tf.ensure_shape(values, [None, *shape])
            return values, tf.ensure_shape(labels, [None]), tf.ensure_shape(ids, [None])

        return references.map(load_block, num_parallel_calls=tf.data.AUTOTUNE)

    def _load(self, references: Iterable[tuple]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        images, labels, ids = [], [], []
        with self.decoder.record_errors():
            for split, position, *reference in references:
                record = self._read(split, reference)
                image = record.image
                if isinstance(image, bytes):
                    image = self.decoder.decode(image, record.name)
                if image is None:
                    self._check_any_good(split, record.name)
                    continue
                # Tokens need no crop.
                images.append(self.crops[split](image, position) if image.ndim == 3 else image)
                labels.append(record.label)
                ids.append((record.image_id or record.name).encode())
        return self._tokenized(images), np.array(labels, np.int32), np.array(ids, np.bytes_)

    def _read(self, split: int, reference: Sequence) -> Record:
        """The record of a reference; one without an image if its file must not be read."""
        read_from = self.splits[split]
        try:
            record = read_from.record(*reference)
        except UnreadableFile as error:
            self.decoder.reject(error.name, error.reason)
            return Record(None, UNLABELED, error.name)
        if self.tokenizer is None and read_from.tokenizer is not None:
            tokens: Any = record.image
            return record._replace(image=read_from.tokenizer.detokenize(tokens))
        return record

    def _check_any_good(self, split: int, name: str) -> None:
        """Raises an `InputError` if all images are bad: a stream of them would never yield."""
        self._bad[split].add(name)
        if len(self._bad[split]) == self.splits[split].num_examples:
            raise no_good_image(self.splits[split])

    def _tokenized(self, images: list[np.ndarray]) -> np.ndarray:
        """The tokens of images, some of which may be tokens already; or pixels."""
        squares = resize_squares([each for each in images if each.ndim == 3], self.image_size)
        if self.tokenizer is None:
            return squares
        are_tokens = np.array([each.ndim == 1 for each in images], bool)
        tokens = np.empty((len(images), math.prod(self.tokenizer.grid)), np.int32)
        if are_tokens.any():
            tokens[are_tokens] = [each for each in images if each.ndim == 1]
        if len(squares):
            tokens[~are_tokens] = self.tokenizer.tokenize(squares)
        return tokens


def no_good_image(split: Split) -> InputError:
    """Returns the error that a split without a single good image raises."""
    return InputError(f"{split.name} holds no image that can be read")


def check_augmentation(split: Split, augmentation: str) -> None:
    """Raises `InputError` if `augmentation` is to crop images of which there are only tokens."""
    if split.tokenizer is not None and augmentation != "none":
        raise InputError(
            f"augmentation must be none for {split.name}, whose images are tokens already, got "
            f"{augmentation}"
        )


def _check_tokens(split: Split, tokenizer: ImageTokenizer) -> None:
    """Raises `InputError` if `split` holds tokens of another tokenizer."""
    theirs = split.tokenizer
    if theirs is None:
        return
    same_size = theirs.image_size == tokenizer.image_size
    if not same_size or theirs.fingerprint() != tokenizer.fingerprint():
        raise InputError(
            f"{split.name} holds the tokens of another tokenizer: {theirs} made them, and the "
            f"model has {tokenizer}; tokenize the images with the model's tokenizer, or train a "
            "model with theirs"
        )


def size_of_images(tokenizer: ImageTokenizer) -> int:
    """Returns the side in pixels of a tokenizer's images.

    Raises:
        InputError: The tokenizer takes images of any size, so that none is known.
    """
    if tokenizer.image_size is None:
        raise InputError(
            "tokenizer must have an image size, got one for any size; "
            "pass tokenizer.bind(image_size)"
        )
    return tokenizer.image_size
