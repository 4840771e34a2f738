"""The paper's augmentations (appendix, "Experimental details"), as small named pieces.

A piece maps an image uint8 [h, w, 3], and where it is random a NumPy generator, to an
image. `AUGMENTATIONS` names what training does to an image and what evaluation does
instead; both give squares, which `area` then brings to the model's size.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from igpt_keras import paper
from igpt_keras.errors import InputError

Generator = np.random.Generator


def area(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [B, h, w, 3], area-averaged to [B, height, width, 3]."""
    if images.shape[1:3] == (height, width):
        return images
    resized = tf.raw_ops.ResizeArea(images=images, size=(height, width)).numpy()
    return np.rint(resized).astype(np.uint8)


def area_squares(squares: Sequence[np.ndarray], side: int) -> np.ndarray:
    """Squares of any sizes, area-averaged to uint8 [B, `side`, `side`, 3]."""
    if len({square.shape for square in squares}) == 1:
        return area(np.stack(squares), side, side)
    nothing = np.zeros((0, side, side, 3), np.uint8)
    return np.concatenate([nothing, *(area(square[None], side, side) for square in squares)])


def shorter_side(image: np.ndarray, side: int) -> np.ndarray:
    """Resized so that the shorter side has `side` pixels; the longer one in proportion."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    return area(image[None], round(height * scale), round(width * scale))[0]


def random_shorter_side(image: np.ndarray, low: int, high: int, generator: Generator) -> np.ndarray:
    """`shorter_side` with a side drawn from low…high, both included."""
    return shorter_side(image, int(generator.integers(low, high, endpoint=True)))


def random_crop(image: np.ndarray, side: int, generator: Generator) -> np.ndarray:
    """A random square of `side` pixels."""
    height, width = image.shape[:2]
    top = generator.integers(height - side, endpoint=True)
    left = generator.integers(width - side, endpoint=True)
    return image[top : top + side, left : left + side]


def center_crop(image: np.ndarray, side: int) -> np.ndarray:
    """The square of `side` pixels in the middle."""
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def center_square(image: np.ndarray) -> np.ndarray:
    """The largest square in the middle."""
    return center_crop(image, min(image.shape[:2]))


def reflect_pad(image: np.ndarray, width: int) -> np.ndarray:
    """`width` pixels more on each side, mirrored without repeating the edge."""

    def mirrored(length):
        # `np.pad` takes several times as long for small images.
        indices = np.abs(np.arange(-width, length + width))
        return length - 1 - np.abs(length - 1 - indices)

    return image[np.ix_(mirrored(image.shape[0]), mirrored(image.shape[1]))]


def random_flip(image: np.ndarray, generator: Generator) -> np.ndarray:
    """Mirrored left to right, or not."""
    return image[:, ::-1] if generator.integers(2) else image


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What happens to images before they are area-averaged to the model's size.

    Attributes:
        evaluate: an image to a square.
        train: an image and a generator to a square; None where training sees what
            evaluation sees.
    """

    evaluate: Callable[[np.ndarray], np.ndarray]
    train: Callable[[np.ndarray, Generator], np.ndarray] | None = None


def _imagenet(image, generator):
    low, high = paper.IMAGENET_SHORTER_SIDE
    resized = random_shorter_side(image, low, high, generator)
    return random_crop(resized, paper.IMAGENET_CROP, generator)


def _imagenet_evaluation(image):
    return center_crop(shorter_side(image, paper.IMAGENET_CROP), paper.IMAGENET_CROP)


def _cifar(image, generator):
    padded = reflect_pad(_cifar_evaluation(image), paper.CIFAR_PADDING)
    return random_flip(random_crop(padded, paper.CIFAR_SIZE, generator), generator)


def _cifar_evaluation(image):
    return area(center_square(image)[None], paper.CIFAR_SIZE, paper.CIFAR_SIZE)[0]


AUGMENTATIONS = {
    "none": Augmentation(center_square),
    "imagenet": Augmentation(_imagenet_evaluation, _imagenet),
    "cifar": Augmentation(_cifar_evaluation, _cifar),
}


def augmentation(name: str) -> Augmentation:
    """The augmentation called `name`: "none", "imagenet" or "cifar".

    Raises:
        InputError: another name.
    """
    if name not in AUGMENTATIONS:
        raise InputError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {name!r}")
    return AUGMENTATIONS[name]
