"""Images and tokens in memory, with their labels."""

import dataclasses

import numpy as np

from igpt_keras.errors import InputError


@dataclasses.dataclass(frozen=True, repr=False)
class LabeledImages:
    """Images and their labels.

    Attributes:
        images: uint8 [N, H, W, 3].
        labels: int32 [N]; -1 for images without labels.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"<LabeledImages: {list(self.images.shape)} {self.images.dtype}>"

    def per_class(self, count: int, seed: int) -> "LabeledImages":
        """Returns `count` random images of every class; see `per_class`."""
        indices = per_class(self.labels, count, seed)
        return LabeledImages(self.images[indices], self.labels[indices])


@dataclasses.dataclass(frozen=True, repr=False)
class LabeledTokens:
    """Tokens of images and the images' labels.

    Attributes:
        tokens: int32 [N, n]; uint16 if mapped from a cache and small enough.
        labels: int32 [N]; -1 for images without labels.
    """

    tokens: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"<LabeledTokens: {list(self.tokens.shape)} {self.tokens.dtype}>"

    def take(self, indices: np.ndarray) -> "LabeledTokens":
        """Returns the images at `indices`, in that order."""
        return LabeledTokens(self.tokens[indices], self.labels[indices])

    def per_class(self, count: int, seed: int) -> "LabeledTokens":
        """Returns `count` random images of every class; see `per_class`."""
        return self.take(per_class(self.labels, count, seed))


def per_class(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws `count` random images of every class (paper, section 4.7).

    Args:
        labels: int [N].
        count: Number of images of each class.
        seed: Determines the choice and the order.

    Returns:
        int [`count` · classes], the images' indices in random order.

    Raises:
        InputError: A class has fewer images, or images have no labels.
    """
    if not len(labels) or labels.min() < 0:
        raise InputError("every image must have a label to draw images of every class")
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        candidates = np.flatnonzero(labels == label)
        if len(candidates) < count:
            raise InputError(
                f"class {label} must have at least {count} images, got {len(candidates)}"
            )
        chosen.append(generator.choice(candidates, count, replace=False))
    return generator.permutation(np.concatenate(chosen))
