"""Image GPT (Generative Pretraining from Pixels) in Keras."""

import importlib

from igpt_keras.errors import InputError
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.sampling import samplers
from igpt_keras.saving import save
from igpt_keras.tokenizers.color_palette import ColorPalette

__version__ = "0.1.0"
__all__ = [
    "ColorPalette",
    "ImageGPT",
    "ImageGPTClassifier",
    "ImageGPTConfig",
    "InputError",
    "load",
    "samplers",
    "save",
]


# Reading needs libraries that the rest of the package runs without.
_LAZY = {
    "load": "igpt_keras.convert",
}


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
