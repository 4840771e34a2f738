"""A trained model as one folder that explains itself.

| file | what it holds |
| --- | --- |
| `igpt.json` | class and settings of the model |
| `model.weights.h5` | the weights, as Keras saves them |
| `tokenizer.json` | the tokenizer's kind and settings; absent if the model has none |
| `palette.npy` | the colors of a `ColorPalette`, as published |
| `training.json` | how it was trained, free-form; absent if unknown |

A run (`igpt pretrain`, `igpt finetune`) has its model in a subfolder `model`; wherever a
model folder is read, the folder of a run does as well.
"""

import json
import os
import pathlib
from typing import Any

from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.tokenizers import load_tokenizer

CONFIG_FILE = "igpt.json"
WEIGHTS_FILE = "model.weights.h5"
TRAINING_FILE = "training.json"
MODEL_FOLDER = "model"
FORMAT_VERSION = 1
MODEL_CLASSES = {cls.__name__: cls for cls in (ImageGPT, ImageGPTClassifier)}


def save(
    model: GenerativeModel,
    path: str | os.PathLike,
    training: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes `model` and its palette as a folder, whole or not at all.

    Args:
        model: an `ImageGPT` or `ImageGPTClassifier`.
        path: the folder.
        training: how it was trained, JSON-serializable.
        overwrite: whether an existing folder is replaced.

    Returns: the folder's path.

    Raises:
        FileExistsError: `path` exists and `overwrite` is false, or it is no model folder.
    """
    settings = model.get_config()
    del settings["tokenizer"]
    description = {
        "format_version": FORMAT_VERSION,
        "class_name": type(model).__name__,
        "settings": settings,
    }
    with atomic_path(path, overwrite, marker=CONFIG_FILE) as partial:
        partial.mkdir()
        _write_json(partial / CONFIG_FILE, description)
        model.save_weights(partial / WEIGHTS_FILE)
        if model.tokenizer is not None:
            model.tokenizer.save_to_preset(partial)
        if training is not None:
            _write_json(partial / TRAINING_FILE, training)
    return pathlib.Path(path)


def is_model_folder(path: str | os.PathLike) -> bool:
    """Whether `path` is a folder that `save` wrote, or a run's folder with one in it."""
    return (model_folder(path) / CONFIG_FILE).is_file()


def model_folder(path: str | os.PathLike) -> pathlib.Path:
    """Where the files of the model are: `path`, or `path`/model in the folder of a run."""
    path = pathlib.Path(path)
    in_run = path / MODEL_FOLDER
    return in_run if (in_run / CONFIG_FILE).is_file() else path


def load_folder(path: str | os.PathLike) -> GenerativeModel:
    """Reads a folder that `save` wrote, or the one in the folder of a run.

    Raises:
        InputError: a missing, damaged or mismatched file, named.
    """
    path = model_folder(path)
    description = _read_json(path / CONFIG_FILE)
    try:
        if description["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{path / CONFIG_FILE} has format_version {description['format_version']}; "
                f"this version reads {FORMAT_VERSION}"
            )
        model = MODEL_CLASSES[description["class_name"]].from_config(description["settings"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path / CONFIG_FILE} does not describe a model: {error!r}") from None
    weights = path / WEIGHTS_FILE
    if not weights.is_file():
        raise InputError(f"{weights} is missing")
    try:
        model.load_weights(weights)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{weights} is damaged or holds a model of another shape: {error}"
        ) from error
    model.tokenizer = load_tokenizer(path)
    return model


def read_training(path: str | os.PathLike) -> dict[str, Any]:
    """What `save` was told of the training; empty where `path` holds nothing of it.

    Raises:
        InputError: a damaged file.
    """
    file = model_folder(path) / TRAINING_FILE
    return _read_json(file) if file.is_file() else {}


def _write_json(path: pathlib.Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _read_json(path: pathlib.Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
