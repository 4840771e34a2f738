"""Labeled images and tokens, and three splits of them."""

import dataclasses

import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.tokenizers.color_palette import ColorPalette


@dataclasses.dataclass(frozen=True)
class LabeledImages:
    """Images uint8 [N, H, W, 3] and their labels int32 [N]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def tokens(self, palette: ColorPalette) -> np.ndarray:
        """The images as tokens int32 [N, H · W], in raster order."""
        return palette.tokenize(self.images)

    def per_class(self, count: int, seed: int) -> "LabeledImages":
        """`count` random images of every class, as `per_class`."""
        indices = per_class(self.labels, count, seed)
        return LabeledImages(self.images[indices], self.labels[indices])


@dataclasses.dataclass(frozen=True)
class LabeledTokens:
    """Encoded images [N, n], int32 or (mapped from disk) uint16, and labels int32 [N].

    Labels of images that have none are -1.
    """

    tokens: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, indices: np.ndarray) -> "LabeledTokens":
        """Those at `indices`, in that order."""
        return LabeledTokens(self.tokens[indices], self.labels[indices])

    def per_class(self, count: int, seed: int) -> "LabeledTokens":
        """`count` random images of every class, as `per_class`."""
        return self.take(per_class(self.labels, count, seed))


def per_class(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of `count` random images of every class, in random order (paper, section 4.7).

    Raises:
        InputError: a class has fewer.
    """
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        of_label = np.flatnonzero(labels == label)
        if len(of_label) < count:
            raise InputError(f"class {label} has {len(of_label)} images, {count} were asked for")
        chosen.append(generator.choice(of_label, count, replace=False))
    return generator.permutation(np.concatenate(chosen))


@dataclasses.dataclass(frozen=True)
class Splits:
    """Train, validation and test split of a data set, and the names of its classes."""

    train: LabeledImages
    validation: LabeledImages
    test: LabeledImages
    class_names: list[str]
