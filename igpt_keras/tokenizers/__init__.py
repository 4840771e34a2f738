"""Tokenizers: images to discrete tokens and back."""

import os
import pathlib

from igpt_keras.tokenizers.base import (
    TOKENIZER_FILE,
    ImageTokenizer,
    register_tokenizer,
    tokenizers,
)
from igpt_keras.tokenizers.color_palette import PALETTE_FILE, ColorPalette
from igpt_keras.tokenizers.rgb import RGBTokenizer

__all__ = [
    "ColorPalette",
    "ImageTokenizer",
    "RGBTokenizer",
    "load_tokenizer",
    "register_tokenizer",
    "tokenizers",
]


def load_tokenizer(folder: str | os.PathLike) -> ImageTokenizer | None:
    """Reads the tokenizer of a preset folder: `tokenizer.json`, or a lone `palette.npy`.

    Returns:
        The tokenizer, or None if the folder holds neither file.

    Raises:
        InputError: The files are damaged.
    """
    folder = pathlib.Path(folder).expanduser()
    if (folder / TOKENIZER_FILE).is_file():
        return ImageTokenizer.from_preset(folder)
    palette = folder / PALETTE_FILE
    return ColorPalette.load(palette) if palette.is_file() else None
