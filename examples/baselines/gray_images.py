"""Gray images in [0, 1], and what Image GPT says of them as a density."""

import dataclasses

import numpy as np

import igpt_keras

# L, where pixels are multiples of 1 / L. Images of 8 bits have 255.
MAX_GRAY = {"digits": 16}


@dataclasses.dataclass(frozen=True)
class GrayImages:
    """Gray images of a data set.

    Attributes:
        train, validation, test: float32 [N, R²], pixels from 0 to 1.
        labels: int32 [N] of the training images.
        test_images: uint8 [N, R, R, 3], the test images before.
        max_gray: L; pixels are multiples of 1 / L.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    max_gray: int


def read_gray_images(data: str, image_size: int) -> GrayImages:
    """Reads what `igpt_keras.open_data` opens.

    Raises:
        InputError: Images have colors, or there are none to validate or to test.
    """
    opened, max_gray = igpt_keras.open_data(data), MAX_GRAY.get(data, 255)
    if opened.validation is None or opened.test is None:
        raise igpt_keras.InputError(f"data must have validation and test images, got {data}")
    train, validation, test = (
        igpt_keras.data.read_images(split, image_size)
        for split in (opened.train, opened.validation, opened.test)
    )
    pixels = (gray_pixels(split.images, max_gray) for split in (train, validation, test))
    return GrayImages(*pixels, labels=train.labels, test_images=test.images, max_gray=max_gray)


def gray_pixels(images: np.ndarray, max_gray: int) -> np.ndarray:
    """Returns uint8 [N, R, R, 3] as multiples of 1 / `max_gray`, float32 [N, R²].

    Raises:
        InputError: The images have colors.
    """
    if (images != images[..., :1]).any():
        raise igpt_keras.InputError("images must be gray, but some have colors")
    gray = np.rint(images[..., 0] * (max_gray / 255)) / max_gray
    return gray.reshape(len(images), -1).astype(np.float32)


def to_pictures(pixels: np.ndarray) -> np.ndarray:
    """Returns pixels from 0 to 1, float [N, R²], as uint8 [N, R, R, 3]."""
    size = round(pixels.shape[1] ** 0.5)
    gray = np.rint(pixels * 255).astype(np.uint8).reshape(-1, size, size, 1)
    return np.repeat(gray, 3, axis=-1)


def exact_log_densities(
    model: igpt_keras.ImageGPT, images: np.ndarray, max_gray: int
) -> np.ndarray:
    """Returns the log density that an Image GPT has at gray images with pixels from 0 to 1.

    The model gives probabilities of colors, not densities. Let each gray level stand for an
    interval of length 1 / `max_gray` around it, in which all values are equally likely. Then
    the density of a pixel is P(color) · `max_gray`. If a palette has one color for several
    levels, the color's probability is spread over all their intervals.

    Args:
        model: An autoregressive model with a color palette.
        images: uint8 [N, R, R, 3], gray.
        max_gray: L, for the levels 0, 1 / L, …, 1.

    Returns:
        float64 [N], nats.

    Raises:
        InputError: A token of the model is not a color.
    """
    palette = model.tokenizer
    if not isinstance(palette, igpt_keras.ColorPalette):
        raise igpt_keras.InputError(f"the model's tokenizer must be a palette, got {palette!r}")
    levels = np.rint(np.arange(max_gray + 1) * (255 / max_gray)).astype(np.uint8)
    plain = np.broadcast_to(levels[:, None, None, None], (len(levels), *images.shape[1:]))
    num_levels = np.bincount(palette.tokenize(plain)[:, 0], minlength=palette.vocabulary_size)
    widths = num_levels[palette.tokenize(images)] / max_gray
    return model.score(images).astype(np.float64) - np.log(widths).sum(axis=1)
