"""Loading: from references to records to batches of pixels or tokens."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

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

    def load(self, references: tf.data.Dataset) -> tf.data.Dataset:
        """Maps blocks of references to blocks of images, without the bad ones.

        Args:
            references: Blocks as in `Split`, which also hold `split` int32 [K], an index in
                `splits`, and `position` int64 [K], the position in the stream.

        Returns:
            Pairs of tokens int32 [≤ K, n] (or images uint8 [≤ K, R, R, 3]) and labels int32
            [≤ K].
        """
        if self.tokenizer is None:
            dtype, shape = tf.uint8, (self.image_size, self.image_size, 3)
        else:
            dtype, shape = tf.int32, (math.prod(self.tokenizer.grid),)
        columns = ("split", "position", "index", "image_bytes", "label", "name")

        def load_block(block: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            values, labels = tf.numpy_function(
                lambda *columns: self._load(zip(*columns, strict=True)),
                [block[column] for column in columns],
                [dtype, tf.int32],
                stateful=False,
            )
            return tf.ensure_shape(values, [None, *shape]), tf.ensure_shape(labels, [None])

        return references.map(load_block, num_parallel_calls=tf.data.AUTOTUNE)

    def _load(self, references: Iterable[tuple]) -> tuple[np.ndarray, np.ndarray]:
        images, labels = [], []
        with self.decoder.record_errors():
            for split, position, *reference in references:
                record = self._read(split, reference)
                image = record.image
                if isinstance(image, bytes):
                    image = self.decoder.decode(image, record.name)
                if image is None:
                    self._check_any_good(split, record.name)
                    continue
                # Tokens from a cache need no crop.
                images.append(self.crops[split](image, position) if image.ndim == 3 else image)
                labels.append(record.label)
        return self._tokenized(images), np.array(labels, np.int32)

    def _read(self, split: int, reference: Sequence) -> Record:
        """The record of a reference; one without an image if its file must not be read."""
        try:
            return self.splits[split].record(*reference)
        except UnreadableFile as error:
            self.decoder.reject(error.name, error.reason)
            return Record(None, UNLABELED, error.name)

    def _check_any_good(self, split: int, name: str) -> None:
        """Raises an `InputError` if all images are bad: a stream of them would never yield."""
        self._bad[split].add(name)
        if len(self._bad[split]) == self.splits[split].num_examples:
            raise no_good_image(self.splits[split])

    def _tokenized(self, images: list[np.ndarray]) -> np.ndarray:
        if images and images[0].ndim == 1:
            return np.stack(images).astype(np.int32)
        squares = resize_squares(images, self.image_size)
        return squares if self.tokenizer is None else self.tokenizer.tokenize(squares)


def no_good_image(split: Split) -> InputError:
    """Returns the error that a split without a single good image raises."""
    return InputError(f"{split.name} holds no image that can be read")


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
