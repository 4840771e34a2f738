"""Models in the formats of other programs."""

import os
import pathlib
import types

from igpt_keras.convert.huggingface import (
    CONFIG_FILE,
    image_processor_tokens,
    read_huggingface,
    save_huggingface,
)
from igpt_keras.convert.stored_model import CHECKPOINT_FILE, StoredModel
from igpt_keras.errors import InputError

__all__ = [
    "StoredModel",
    "image_processor_tokens",
    "read_foreign",
    "read_huggingface",
    "save_huggingface",
]


def read_foreign(path: pathlib.Path, wanted_class: str | None = None) -> StoredModel | None:
    """Reads a Hugging Face folder or a checkpoint of the original TensorFlow code.

    Args:
        path: The folder, the checkpoint's prefix, or a folder with a file `checkpoint` that
            names the prefix.
        wanted_class: The class to read if the weights are those of both.

    Returns:
        The model, or None if there is neither at `path`.

    Raises:
        InputError: A part is missing or damaged, the model is not an Image GPT, or TensorFlow
            is needed and not installed.
    """
    one_file = path.is_file() and CHECKPOINT_FILE.fullmatch(str(path))
    if one_file or os.path.isfile(f"{path}.index"):
        return _openai(path).read_openai(path, wanted_class)
    if (path / "checkpoint").is_file():
        openai = _openai(path)
        return openai.read_openai(openai.latest_prefix(path), wanted_class)
    if (path / CONFIG_FILE).is_file():
        return read_huggingface(path, wanted_class)
    return None


def _openai(path: pathlib.Path) -> types.ModuleType:
    """Returns the module that reads original checkpoints; no other needs TensorFlow."""
    try:
        from igpt_keras.convert import openai
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise InputError(
            f"reading {path} needs TensorFlow's checkpoint reader: pip install tensorflow"
        ) from None
    return openai
