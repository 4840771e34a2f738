"""The paper's augmentations (appendix A.1) and the resizing functions that they consist of.

These functions map one image uint8 [h, w, 3] to another; the random ones take a NumPy generator.
An `Augmentation` names what training and evaluation do to an image. Both give a square, which
`resize_area` then brings to the model's size.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from igpt_keras import paper
from igpt_keras.registry import Registry

Generator = np.random.Generator


def resize_area(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averages images uint8 [B, h, w, 3] by area to uint8 [B, height, width, 3]."""
    if images.shape[1:3] == (height, width):
        return images
    # Imported here so that listing augmentations and decoding images need no TensorFlow.
    import tensorflow as tf

    resized = tf.raw_ops.ResizeArea(images=images, size=(height, width)).numpy()
    return np.rint(resized).astype(np.uint8)


def resize_squares(squares: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Averages squares of any sizes by area to one batch uint8 [B, size, size, 3]."""
    if len({square.shape for square in squares}) == 1:
        return resize_area(np.stack(squares), size, size)
    empty = np.zeros((0, size, size, 3), np.uint8)
    return np.concatenate([empty, *(resize_area(square[None], size, size) for square in squares)])


def resize_shorter_side(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes the shorter side to `size` pixels, and the longer one in proportion."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    return resize_area(image[None], round(height * scale), round(width * scale))[0]


def random_resize_shorter_side(
    image: np.ndarray, low: int, high: int, generator: Generator
) -> np.ndarray:
    """Resizes the shorter side to a random size in `low`…`high`, both included."""
    return resize_shorter_side(image, int(generator.integers(low, high, endpoint=True)))


def random_crop(image: np.ndarray, size: int, generator: Generator) -> np.ndarray:
    """Cuts out a random square of `size` pixels."""
    height, width = image.shape[:2]
    top = generator.integers(height - size, endpoint=True)
    left = generator.integers(width - size, endpoint=True)
    return image[top : top + size, left : left + size]


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Cuts out the square of `size` pixels in the center."""
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def center_square(image: np.ndarray) -> np.ndarray:
    """Cuts out the largest square in the center."""
    return center_crop(image, min(image.shape[:2]))


def reflect_pad(image: np.ndarray, padding: int) -> np.ndarray:
    """Adds `padding` pixels on each side, mirrored without repeating the edge."""

    def mirrored(length: int) -> np.ndarray:
        # np.pad takes several times as long for small images.
        indices = np.abs(np.arange(-padding, length + padding))
        return length - 1 - np.abs(length - 1 - indices)

    return image[np.ix_(mirrored(image.shape[0]), mirrored(image.shape[1]))]


def random_flip(image: np.ndarray, generator: Generator) -> np.ndarray:
    """Mirrors left and right with probability 1/2."""
    return image[:, ::-1] if generator.integers(2) else image


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What happens to an image before it is resized to the model's size.

    Attributes:
        evaluate: Maps an image to a square.
        train: Maps an image and a generator to a square; None if training does what
            evaluation does.
    """

    evaluate: Callable[[np.ndarray], np.ndarray]
    train: Callable[[np.ndarray, Generator], np.ndarray] | None = None

    def square(self, seed: int, image: np.ndarray, position: int) -> np.ndarray:
        """Maps an image to a square for training, determined by a seed and its position."""
        if self.train is None:
            return self.evaluate(image)
        # Philox takes any key at once, so that each position has a generator of its own.
        key = np.array([seed, position], np.uint64)
        return self.train(image, np.random.Generator(np.random.Philox(key=key)))


augmentations: Registry[Augmentation] = Registry("augmentation")


def _imagenet(image: np.ndarray, generator: Generator) -> np.ndarray:
    low, high = paper.IMAGENET_SHORTER_SIDE
    resized = random_resize_shorter_side(image, low, high, generator)
    return random_crop(resized, paper.IMAGENET_CROP, generator)


def _imagenet_evaluation(image: np.ndarray) -> np.ndarray:
    return center_crop(resize_shorter_side(image, paper.IMAGENET_CROP), paper.IMAGENET_CROP)


def _cifar(image: np.ndarray, generator: Generator) -> np.ndarray:
    padded = reflect_pad(_cifar_evaluation(image), paper.CIFAR_PADDING)
    return random_flip(random_crop(padded, paper.CIFAR_SIZE, generator), generator)


def _cifar_evaluation(image: np.ndarray) -> np.ndarray:
    return resize_area(center_square(image)[None], paper.CIFAR_SIZE, paper.CIFAR_SIZE)[0]


augmentations.register("none")(Augmentation(center_square))
augmentations.register("imagenet")(Augmentation(_imagenet_evaluation, _imagenet))
augmentations.register("cifar")(Augmentation(_cifar_evaluation, _cifar))
