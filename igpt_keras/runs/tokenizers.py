"""The tokenizer that a name or a path stands for, and palettes fitted to images."""

import functools
import math
import os
import pathlib
from typing import Any

import numpy as np

from igpt_keras.convert.hub import SCHEME
from igpt_keras.data.tokenization import read_images
from igpt_keras.errors import InputError
from igpt_keras.file_systems import is_url, local_copy
from igpt_keras.models import load
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.runs.folder import RESULT_FILE, RUN_FILE
from igpt_keras.runs.options import DataOptions
from igpt_keras.stages import stage
from igpt_keras.tokenizers import ColorPalette, ImageTokenizer, tokenizers
from igpt_keras.tokenizers.base import TOKENIZER_FILE, tokenizer_of
from igpt_keras.wording import plural

SUFFIX = ".npy"
IMAGE_SIZE = 32
MAX_IMAGES = 10_000


def load_with_tokenizer(path: str | os.PathLike, **settings: Any) -> GenerativeModel:
    """Loads the model at `path`, with settings as for `load`.

    Raises:
        InputError: The model has no tokenizer, so it cannot read images.
    """
    model = load(path, **settings)
    if model.tokenizer is None:
        raise InputError(
            f"{path} has no tokenizer for images; put the palette of its pre-training into its "
            "folder as palette.npy"
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


def read_tokenizer(
    source: str, image_size: int | None = None, default_size: int = IMAGE_SIZE
) -> ImageTokenizer:
    """Returns the tokenizer that `source` names, for images of one size.

    Args:
        source: The kind of a tokenizer that needs no fitting, such as "rgb"; the path of a
            palette, ending in .npy; the folder of a tokenizer; or a model, whose tokenizer it is.
        image_size: Side of the images in pixels; None for the tokenizer's or the model's.
        default_size: The side if neither is known.

    Raises:
        FileNotFoundError: There is nothing of that name.
        InputError: The tokenizer is for images of another size, has to be fitted first, or
            cannot be read.
    """
    if source in _kinds_without_fit():
        return tokenizers.get(source).from_config({"image_size": image_size or default_size})
    tokenizer = _read(source)
    return tokenizer.bind(image_size or tokenizer.image_size or default_size)


def _kinds_without_fit() -> list[str]:
    return [name for name in tokenizers.names() if not tokenizers.get(name).requires_fit]


def _read(source: str) -> ImageTokenizer:
    if source.endswith(SUFFIX):
        return ColorPalette.load(source)
    if is_url(source) and not source.startswith(SCHEME):
        with local_copy(source) as folder:
            return ImageTokenizer.from_preset(folder)
    path = pathlib.Path(source).expanduser()
    if (path / TOKENIZER_FILE).is_file():
        return ImageTokenizer.from_preset(path)
    if (path / RUN_FILE).is_file() and not (path / RESULT_FILE).is_file():
        raise InputError(f"{source} is a run that has not finished: it has no tokenizer yet")
    if source in tokenizers.names() and not path.exists():
        raise InputError(
            f"tokenizer={source} has to be fitted first; give the path of a fitted one, or of a "
            "model with it"
        )
    try:
        return tokenizer_of(load_with_tokenizer(source))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"tokenizer must be {', '.join(_kinds_without_fit())}, a palette, or the folder of a "
            f"tokenizer or a model; {error}"
        ) from None
