"""The tokenizer of a model or a file, and palettes fitted to images."""

import functools
import math
import os

import numpy as np

from igpt_keras.data.tokenization import read_images
from igpt_keras.errors import InputError
from igpt_keras.models import load
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.runs.options import DataOptions
from igpt_keras.stages import stage
from igpt_keras.tokenizers import ColorPalette, ImageTokenizer
from igpt_keras.tokenizers.base import tokenizer_of
from igpt_keras.wording import plural

SUFFIX = ".npy"
IMAGE_SIZE = 32
MAX_IMAGES = 10_000


def load_with_tokenizer(path: str | os.PathLike) -> GenerativeModel:
    """Loads the model at `path`.

    Raises:
        InputError: The model has no tokenizer, so it cannot read images.
    """
    model = load(path)
    if model.tokenizer is None:
        raise InputError(
            f"{path} has no palette to tokenize images with; put the palette of its pre-training "
            "into its folder as palette.npy"
        )
    return model


@functools.lru_cache(maxsize=8)
def fit_palette(data: DataOptions, image_size: int, num_colors: int, seed: int) -> ColorPalette:
    """Fits a palette to training images, once for all runs in a process that ask for the same.

    Args:
        data: Sources of a mixture contribute images by weight.
        image_size: Side in pixels that images are averaged down to.
        num_colors: Number of colors.
        seed: Seed of the choice of images and of k-means.
    """
    images = training_images(data, image_size, MAX_IMAGES, seed)
    with stage(f"fitting a palette to {plural(len(images), 'image')}"):
        return ColorPalette.fit(images, num_colors, seed)


def training_images(data: DataOptions, image_size: int, max_images: int, seed: int) -> np.ndarray:
    """Returns random training images, uint8 [N, R, R, 3], from mixed sources by weight."""
    sources = data.data_set.sources
    total = sum(source.weight for source in sources)
    images = [
        read_images(
            source.split,
            image_size,
            augmentation=source.augmentation or data.augmentation,
            decoder=data.decoder,
            limit=math.ceil(max_images * source.weight / total),
            seed=seed,
        ).images
        for source in sources
    ]
    return np.concatenate(images)


def read_tokenizer(path: str) -> tuple[ImageTokenizer, int]:
    """Returns the tokenizer of a model, or the palette of a .npy file, and its image size."""
    if path.endswith(SUFFIX):
        return ColorPalette.load(path), IMAGE_SIZE
    model = load_with_tokenizer(path)
    return tokenizer_of(model), model.config.image_size
