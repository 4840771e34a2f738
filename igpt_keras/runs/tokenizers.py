"""The palette of a model or a file, and the images that one is fitted to."""

import math

import numpy as np

import igpt_keras
from igpt_keras.data.data_set import DataSet
from igpt_keras.data.tokenization import read_images
from igpt_keras.errors import InputError
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.runs.options import DataOptions
from igpt_keras.tokenizers.color_palette import ColorPalette

SUFFIX = ".npy"
IMAGE_SIZE = 32
MAX_IMAGES = 10_000


def load_with_palette(path: str) -> GenerativeModel:
    """The model at `path`.

    Raises:
        InputError: it has no palette, so that images have no tokens.
    """
    model = igpt_keras.load(path)
    if model.tokenizer is None:
        raise InputError(
            f"{path} has no palette, which images are encoded with; the palette of its "
            "pre-training belongs into its folder as palette.npy"
        )
    return model


def training_images(
    data: DataOptions, data_set: DataSet, image_size: int, max_images: int, seed: int
) -> np.ndarray:
    """Random images to fit a palette to: uint8 [N, R, R, 3]; of mixed sources by weight."""
    total = sum(source.weight for source in data_set.sources)
    images = [
        read_images(
            source.split,
            image_size,
            augmentation=source.augmentation or data.augmentation,
            decoder=data.decoder,
            limit=math.ceil(max_images * source.weight / total),
            seed=seed,
        ).images
        for source in data_set.sources
    ]
    return np.concatenate(images)


def read_palette(path: str) -> tuple[ColorPalette, int]:
    """The palette at `path`, of a file or a model, and the side of images it is for."""
    if path.endswith(SUFFIX):
        return ColorPalette.load(path), IMAGE_SIZE
    model = load_with_palette(path)
    return model.tokenizer, model.config.image_size
