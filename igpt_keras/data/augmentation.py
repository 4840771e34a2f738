"""The paper's augmentations (appendix, "Experimental details"), as small named pieces.

A piece maps an image uint8 [h, w, 3] (and, where it is random, a seed int64 [2]) to an
image. `AUGMENTATIONS` names what training does to an image and what evaluation does
instead; both end in `image_size` × `image_size` pixels.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from igpt_keras.data.images import fit_to_size
from igpt_keras.errors import InputError


def area(image, height, width):
    """Area-averaged to [height, width]; an image of that size stays as it is."""
    resized = tf.image.resize(image[None], (height, width), method="area")[0]
    return tf.cast(tf.round(resized), tf.uint8)


def shorter_side(image, side):
    """Resized so that the shorter side has `side` pixels; the longer one in proportion."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    scale = tf.cast(side, tf.float64) / tf.cast(tf.minimum(height, width), tf.float64)

    def scaled(length):
        return tf.cast(tf.round(tf.cast(length, tf.float64) * scale), tf.int32)

    return area(image, scaled(height), scaled(width))


def random_shorter_side(image, low: int, high: int, seed):
    """`shorter_side` with a side drawn from low…high, both included."""
    side = tf.random.stateless_uniform([], seed, low, high + 1, tf.int32)
    return shorter_side(image, side)


def random_crop(image, side: int, seed):
    """A random square of `side` pixels."""
    return tf.image.stateless_random_crop(image, (side, side, 3), seed)


def centre_crop(image, side: int):
    """The square of `side` pixels in the middle."""
    top, left = (tf.shape(image)[0] - side) // 2, (tf.shape(image)[1] - side) // 2
    return image[top : top + side, left : left + side]


def reflect_pad(image, width: int):
    """`width` pixels more on each side, mirrored without repeating the edge."""
    return tf.pad(image, [[width, width], [width, width], [0, 0]], mode="REFLECT")


def random_flip(image, seed):
    """Mirrored left to right, or not."""
    return tf.image.stateless_random_flip_left_right(image, seed)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What happens to images before they are encoded.

    Attributes:
        train: (image, image_size, seed) to an image of `image_size`.
        evaluate: (image, image_size) to the same.
    """

    train: Callable
    evaluate: Callable

    @property
    def random(self) -> bool:
        """Whether an image differs from epoch to epoch."""
        return self.train is not _square


def _seeds(seed, count):
    """`count` independent seeds from one."""
    return [tf.random.experimental.stateless_fold_in(seed, index) for index in range(count)]


def _square(image, image_size, seed=None):
    return fit_to_size(image, image_size)


def _imagenet(image, image_size, seed):
    first, second = _seeds(seed, 2)
    crop = random_crop(random_shorter_side(image, 256, 384, first), 224, second)
    return area(crop, image_size, image_size)


def _imagenet_evaluation(image, image_size):
    return area(centre_crop(shorter_side(image, 224), 224), image_size, image_size)


def _cifar(image, image_size, seed):
    first, second = _seeds(seed, 2)
    padded = reflect_pad(fit_to_size(image, 32), 4)
    return area(random_flip(random_crop(padded, 32, first), second), image_size, image_size)


def _cifar_evaluation(image, image_size):
    return area(fit_to_size(image, 32), image_size, image_size)


AUGMENTATIONS = {
    "none": Augmentation(_square, _square),
    "imagenet": Augmentation(_imagenet, _imagenet_evaluation),
    "cifar": Augmentation(_cifar, _cifar_evaluation),
}


def augmentation(name: str) -> Augmentation:
    """The augmentation called `name`: "none", "imagenet" or "cifar".

    Raises:
        InputError: another name.
    """
    if name not in AUGMENTATIONS:
        raise InputError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {name!r}")
    return AUGMENTATIONS[name]
