"""Models from wherever they were trained: here, in Transformers, in the original code."""

import os
import pathlib
import types
import zipfile

import keras

from igpt_keras import saving
from igpt_keras.convert.checks import CHECKPOINT_FILE
from igpt_keras.convert.huggingface import (
    image_processor_tokens,
    load_huggingface,
    save_huggingface,
)
from igpt_keras.errors import InputError
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.image_gpt import ImageGPT

__all__ = ["image_processor_tokens", "load", "load_huggingface", "save_huggingface"]

ACCEPTED = (
    "a model folder of igpt, a .keras file, a Hugging Face folder (config.json and weights), "
    "or the prefix of an original checkpoint (path without .index)"
)


def load(path: str | os.PathLike) -> ImageGPT | ImageGPTClassifier:
    """Reads a model, whichever program wrote it.

    Args:
        path: a model folder (`igpt_keras.save`) or the folder of a run that has one, a
            `.keras` file (`model.save`), a folder of Hugging Face Transformers, or the
            prefix of a checkpoint of the original TensorFlow code (or its folder, where a
            file `checkpoint` names the prefix).

    Returns: the model; its `palette` is None where the source has none.

    Raises:
        FileNotFoundError: nothing at `path`.
        InputError: none of these, a missing or damaged part of one, a model that is not
            an Image GPT, or an original checkpoint where TensorFlow is not installed.
    """
    path = pathlib.Path(path)
    if saving.is_model_folder(path):
        return saving.load_folder(path)
    if os.path.isfile(f"{path}.index"):
        return _openai(path).load_openai(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected {ACCEPTED}")
    if match := CHECKPOINT_FILE.fullmatch(str(path)):
        raise InputError(f"{path} is one file of a checkpoint; give its prefix, {match[1]}")
    if path.is_file() and path.suffix == ".keras":
        return _load_keras(path)
    if (path / "checkpoint").is_file():
        openai = _openai(path)
        return openai.load_openai(openai.latest_prefix(path))
    if (path / "config.json").is_file():
        return load_huggingface(path)
    raise InputError(f"{path} is not a model; expected {ACCEPTED}")


def _load_keras(file: pathlib.Path) -> ImageGPT | ImageGPTClassifier:
    if not zipfile.is_zipfile(file):
        # Keras would say that the file is not found.
        raise InputError(f"{file} is damaged or not a model of Keras: it is no zip file")
    try:
        model = keras.saving.load_model(file)
    except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} is damaged or not a model of Keras: {error}") from error
    if not isinstance(model, ImageGPT | ImageGPTClassifier):
        raise InputError(
            f"{file} holds a {type(model).__name__}, not an ImageGPT or ImageGPTClassifier"
        )
    return model


def _openai(path: pathlib.Path) -> types.ModuleType:
    """The module that reads original checkpoints; only that needs TensorFlow."""
    try:
        from igpt_keras.convert import openai
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise InputError(
            f"reading {path} needs TensorFlow's checkpoint reader: pip install tensorflow"
        ) from None
    return openai
