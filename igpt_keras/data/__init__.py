"""Images from where they are stored to batches of tokens: sources, splits and streams."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from igpt_keras.data.augmentation import (
        Augmentation,
        augmentations,
        center_square,
        resize_area,
        resize_squares,
    )
    from igpt_keras.data.data_set import DataSet, WeightedSource, open_data
    from igpt_keras.data.file_splits import FileSplit
    from igpt_keras.data.image_decoding import ImageDecoder, read_image
    from igpt_keras.data.labeled import LabeledImages, LabeledTokens
    from igpt_keras.data.source import Source
    from igpt_keras.data.sources import register_source, source_kinds
    from igpt_keras.data.splits import ArraySplit, Split
    from igpt_keras.data.stream import TrainingStream
    from igpt_keras.data.tokenization import read_images, tokenize

__all__ = [
    "ArraySplit",
    "Augmentation",
    "DataSet",
    "FileSplit",
    "ImageDecoder",
    "LabeledImages",
    "LabeledTokens",
    "Source",
    "Split",
    "TrainingStream",
    "WeightedSource",
    "augmentations",
    "center_square",
    "open_data",
    "read_image",
    "read_images",
    "register_source",
    "resize_area",
    "resize_squares",
    "source_kinds",
    "tokenize",
]

# The names of kinds and augmentations, which the command line lists, need no TensorFlow.
_MODULES = {
    "augmentation": (
        "Augmentation",
        "augmentations",
        "center_square",
        "resize_area",
        "resize_squares",
    ),
    "data_set": ("DataSet", "WeightedSource", "open_data"),
    "file_splits": ("FileSplit",),
    "image_decoding": ("ImageDecoder", "read_image"),
    "labeled": ("LabeledImages", "LabeledTokens"),
    "source": ("Source",),
    "sources": ("register_source", "source_kinds"),
    "splits": ("ArraySplit", "Split"),
    "stream": ("TrainingStream",),
    "tokenization": ("read_images", "tokenize"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
