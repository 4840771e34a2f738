"""Models on disk: preset folders that explain themselves, and how any model is found.

| file | content |
| --- | --- |
| `igpt.json` | the model's class and settings |
| `model.weights.h5` | the weights, as Keras saves them |
| `tokenizer.json` | the tokenizer's kind and settings; absent if the model has none |
| `palette.npy` | the colors of a `ColorPalette`, in the published format |
| `training.json` | how the model was trained, in any form; absent if unknown |
| `README.md` | the model card, as the Hugging Face Hub shows it |

The folder of a run has the model in its subfolder `model`; it is accepted wherever a preset
folder is.
"""

import io
import json
import math
import os
import pathlib
import zipfile
from typing import Any, Protocol, TypeVar

import keras
import numpy as np

from igpt_keras import paper
from igpt_keras.atomic import atomic_path
from igpt_keras.convert import StoredModel, hub, read_foreign
from igpt_keras.convert.hdf5 import copy_weights, count_numbers
from igpt_keras.convert.stored_model import naming
from igpt_keras.disk_space import check_space
from igpt_keras.errors import InputError, first_line
from igpt_keras.json_files import read_object, write_json
from igpt_keras.model_cards import card_for_hub
from igpt_keras.network import quantization
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.network.presets import PRESETS
from igpt_keras.network.protocols import TokenModel
from igpt_keras.registry import Registry
from igpt_keras.tokenizers import load_tokenizer

CONFIG_FILE = "igpt.json"
WEIGHTS_FILE = "model.weights.h5"
TRAINING_FILE = "training.json"
CARD_FILE = "README.md"
MODEL_FOLDER = "model"
# A key of `training.json`: the tokenizer's root mean square error on images like those that the
# model was trained on, in levels 0…255.
TOKENIZER_ERROR = "tokenizer_rmse"
FORMAT_VERSION = 1
# More than HDF5 adds for each variable and once for the file.
BYTES_OF_HDF5 = 4096
# Weights hardly compress; Keras stores them as they are.
MAX_COMPRESSION = 10

SHIPPED = pathlib.Path(__file__).parent / "presets"
# Where the weights of the paper's models are; those of XL were not published.
PUBLISHED = {
    "image_gpt_small": "hf://openai/imagegpt-small",
    "image_gpt_medium": "hf://openai/imagegpt-medium",
    "image_gpt_large": "hf://openai/imagegpt-large",
}
ACCEPTED = (
    "a model folder of igpt, the folder of a run, a .keras file, a Hugging Face folder "
    "(config.json and weights), the prefix of an original checkpoint (path without .index), "
    "hf://<owner>/<name>, or the name of a preset"
)

model_classes: Registry[type] = Registry("model class")

Class = TypeVar("Class", bound=type)


def register_model(cls: Class) -> Class:
    """Registers a model class with Keras and with the preset folders; a decorator."""
    model_classes.register(cls.__name__)(cls)
    keras.saving.register_keras_serializable("igpt_keras")(cls)
    return cls


class KerasTokenModel(TokenModel, Protocol):
    """What saving needs of a model."""

    @property
    def variables(self) -> list[Any]: ...

    def get_config(self) -> dict[str, Any]: ...

    def save_weights(self, filepath: pathlib.Path) -> None: ...


def save_to_preset(
    model: KerasTokenModel,
    path: str | os.PathLike,
    *,
    training: dict[str, Any] | None = None,
    weights_dtype: str | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes a model and its tokenizer as a preset folder, whole or not at all.

    Args:
        model: An `ImageGPT` or `ImageGPTClassifier`.
        path: The folder.
        training: How the model was trained, JSON-serializable.
        weights_dtype: "float16" for a folder to publish: half as large, and without the state of
            the optimizer. None for all that Keras saves.
        overwrite: Whether to replace an existing preset folder.

    Returns:
        The folder's path.

    Raises:
        FileExistsError: `path` exists and `overwrite` is false, or is not a preset folder.
        InputError: `weights_dtype` is another, or a weight is too large for it.
        OSError: The disk is full.
    """
    if weights_dtype not in (None, "float16"):
        raise InputError(f'weights_dtype must be "float16" or None, got {weights_dtype!r}')
    path = pathlib.Path(path).expanduser()
    settings = model.get_config()
    del settings["tokenizer"]
    description = {
        "format_version": FORMAT_VERSION,
        "class_name": type(model).__name__,
        "settings": settings,
    }
    with atomic_path(path, overwrite, marker=CONFIG_FILE) as partial:
        partial.mkdir()
        write_json(partial / CONFIG_FILE, description)
        check_space(partial / WEIGHTS_FILE, _most_bytes(model))
        model.save_weights(partial / WEIGHTS_FILE)
        if weights_dtype is not None:
            whole = (partial / WEIGHTS_FILE).rename(partial / f"whole.{WEIGHTS_FILE}")
            copy_weights(whole, partial / WEIGHTS_FILE, weights_dtype)
            whole.unlink()
        if model.tokenizer is not None:
            model.tokenizer.save_to_preset(partial)
        if training is not None:
            write_json(partial / TRAINING_FILE, training)
        (partial / CARD_FILE).write_text(card_for_hub(model, training), encoding="utf-8")
    return path


def _most_bytes(model: KerasTokenModel) -> int:
    """Returns at least the size of a file of the model's weights.

    Keras writes the state of the optimizer along with them.
    """
    optimizer: Any = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else [])]
    values = sum(math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in variables)
    return values + BYTES_OF_HDF5 * (1 + len(variables))


def load_preset(
    preset: str | os.PathLike,
    model_class: type | None = None,
    *,
    load_weights: bool = True,
    **settings: Any,
) -> Any:
    """Builds a model from a file, folder or name of any kind, as the class that it is.

    Args:
        preset: A preset folder or the folder of a run; a `.keras` file; a folder of Hugging
            Face Transformers; the prefix of a checkpoint of the original TensorFlow code, or
            its folder; `hf://<owner>/<name>`; or the name of a preset.
        model_class: The class that the model has to be; None for any.
        load_weights: Whether to load the weights; False leaves them random.
        **settings: Arguments of the class to change, such as `dtype`.

    Returns:
        The model. Its `tokenizer` is None if the source has none.

    Raises:
        FileNotFoundError: There is nothing at `preset`.
        InputError: It is not a model or one of another class, a part of it is missing or
            damaged, or a package that reads it is not installed.

    Example:
        ```python
        from igpt_keras.models import load

        model = load("image_gpt_small", load_weights=False, dtype="mixed_bfloat16")
        ```
    """
    wanted = None if model_class is None else model_class.__name__
    stored = read_preset(preset, wanted, load_weights=load_weights)
    found = model_classes.get(stored.class_name)
    if model_class is not None and not issubclass(found, model_class):
        raise InputError(
            f"{preset} holds an {found.__name__}, not an {wanted}; "
            f"load it with {found.__name__}.from_preset"
        )
    return stored.build(found, load_weights, **settings)


def read_preset(
    preset: str | os.PathLike, wanted_class: str | None = None, *, load_weights: bool = True
) -> StoredModel:
    """Reads what `load_preset` builds, without building it.

    Args:
        preset: As for `load_preset`.
        wanted_class: The class to read if a source has the weights of both classes.
        load_weights: Whether the preset has to have weights.

    Raises:
        FileNotFoundError, InputError: As for `load_preset`.
    """
    name = os.fspath(preset)
    if name.startswith(hub.SCHEME):
        return _read_path(hub.download(name), wanted_class)
    path = pathlib.Path(name).expanduser()
    if path.exists() or os.path.isfile(f"{path}.index"):
        return _read_path(path, wanted_class)
    if (SHIPPED / name / CONFIG_FILE).is_file():
        return _read_folder(SHIPPED / name)
    if name in PRESETS:
        return _read_sizes(name, load_weights)
    raise FileNotFoundError(
        f"{path} does not exist; expected {ACCEPTED} ({', '.join(preset_names())})"
    )


def preset_names() -> list[str]:
    """Returns the names of the presets: sizes, and models in this package."""
    shipped = sorted(file.parent.name for file in SHIPPED.glob(f"*/{CONFIG_FILE}"))
    return [*PRESETS, *(name for name in shipped if name not in PRESETS)]


def is_preset_folder(path: str | os.PathLike) -> bool:
    """Returns whether `path` is a preset folder, or the folder of a run that holds one."""
    return (preset_folder(path) / CONFIG_FILE).is_file()


def preset_folder(path: str | os.PathLike) -> pathlib.Path:
    """Returns where the files of a model are: `path`, or `path`/model in the folder of a run."""
    path = pathlib.Path(path).expanduser()
    in_run = path / MODEL_FOLDER
    return in_run if (in_run / CONFIG_FILE).is_file() else path


def read_training(path: str | os.PathLike) -> dict[str, Any]:
    """Returns what `save_to_preset` was told of the training; empty if `path` has nothing.

    Raises:
        InputError: The file is damaged.
    """
    folder = preset_folder(path)
    if not folder.exists() and (shipped := SHIPPED / os.fspath(path)).is_dir():
        folder = shipped
    file = folder / TRAINING_FILE
    return read_object(file) if file.is_file() else {}


def _read_path(path: pathlib.Path, wanted_class: str | None) -> StoredModel:
    if is_preset_folder(path):
        return _read_folder(preset_folder(path))
    if path.is_file() and path.suffix == ".keras":
        return _read_keras(path)
    stored = read_foreign(path, wanted_class)
    if stored is None:
        raise InputError(f"{path} is not a model; expected {ACCEPTED}")
    return stored


def _read_folder(path: pathlib.Path) -> StoredModel:
    file, weights = path / CONFIG_FILE, path / WEIGHTS_FILE
    description = read_object(file)
    try:
        if description["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{file} has format_version {description['format_version']}; "
                f"this version reads {FORMAT_VERSION}"
            )
        class_name = str(description["class_name"])
        settings = dict(description["settings"])
        settings["config"] = ImageGPTConfig.from_dict(settings["config"])
        settings["dtype"] = _dtype(settings.get("dtype"))
        quantization.check_of_keras(settings.get("quantization_config"), quantization.CONFIGS)
        parameters = _parameter_count(settings)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{file}: {error}") from None
        raise InputError(f"{file} does not describe a model: {error!r}") from None
    if not weights.is_file():
        raise InputError(f"{weights} is missing")
    _check_size(weights, count_numbers(weights, weights), parameters)
    settings["tokenizer"] = load_tokenizer(path)

    def assign(model):
        try:
            model.load_weights(weights)
        except Exception as error:  # Keras has no exception of its own for a damaged file.
            raise InputError(
                f"{weights} is damaged or holds a model of another shape: {first_line(error)}"
            ) from error

    return StoredModel(file, class_name, settings, assign)


def _dtype(dtype: Any) -> Any:
    """Returns the name of the dtype policy that Keras wrote, or a map with quantized layers."""
    if isinstance(dtype, dict) and dtype.get("class_name") == "DTypePolicyMap":
        quantization.check_of_keras(dtype, quantization.POLICIES)
        return keras.dtype_policies.get(dtype)
    if isinstance(dtype, dict) and dtype.get("class_name") == "DTypePolicy":
        dtype = dtype["config"]["name"]
    if not isinstance(dtype, str | None):
        raise InputError(f"dtype must be the name of a dtype policy, got {dtype!r:.200}")
    return dtype


def _parameter_count(settings: dict[str, Any]) -> int:
    """Returns the least numbers that store a model with these settings, `config` as an object."""
    num_classes = settings.get("num_classes", 0)
    if type(num_classes) is not int:
        raise InputError(f"num_classes must be an integer, got {num_classes!r:.200}")
    token_head = settings.get("generative_weight", paper.GENERATIVE_WEIGHT) > 0
    return settings["config"].parameter_count(
        settings.get("objective", "ar"), num_classes, token_head
    ) // quantization.most_weights_in_a_number(settings.get("dtype"))


def _check_size(weights: str | os.PathLike, stored: int, parameters: int) -> None:
    """Checks that a file holds the parameters, before any are allocated."""
    if stored < parameters:
        raise InputError(
            f"{weights} is damaged or holds a model of another shape: it has "
            f"{stored:,} numbers for the {parameters:,} parameters of the settings"
        )


def _read_sizes(name: str, load_weights: bool) -> StoredModel:
    if load_weights:
        where = (
            f'its published weights are at "{PUBLISHED[name]}", which from_preset loads; '
            "the original checkpoints (github.com/openai/image-gpt) load by their prefix"
            if name in PUBLISHED
            else "its weights were not published"
        )
        raise InputError(
            f"preset {name} has sizes and no weights: {where}; "
            "load_weights=False gives a model with random weights"
        )
    settings = {"config": ImageGPTConfig.preset(name)}
    return StoredModel(name, "ImageGPT", settings, lambda model: None)


class _KerasFile(StoredModel):
    """A `.keras` file, which Keras builds with its weights, its optimizer and its losses."""

    def build(self, model_class: type, load_weights: bool = True, **overrides: Any) -> Any:
        if overrides or not load_weights:
            changes = [f"{name}={value!r:.200}" for name, value in overrides.items()]
            raise InputError(
                f"{self.source}: a .keras file is loaded as it is, "
                f"got {', '.join(changes) or 'load_weights=False'}; "
                "a folder that save_to_preset writes can be loaded with other settings"
            )
        try:
            return keras.saving.load_model(self.source)
        except Exception as error:  # Keras has no exception of its own for a damaged file.
            raise InputError(
                f"{self.source} is damaged or not a Keras model: {first_line(error)}"
            ) from error


def _read_keras(file: pathlib.Path) -> StoredModel:
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > MAX_COMPRESSION * file.stat().st_size:
                raise InputError(f"{file} would unpack to {unpacked:,} bytes")
            description = json.loads(archive.read("config.json"))
            class_name, settings = description["class_name"], description["config"]
            if class_name not in model_classes.names():
                raise InputError(
                    f"{file} holds a {class_name!r:.200}, not an ImageGPT or ImageGPTClassifier"
                )
            with naming(file):
                config = ImageGPTConfig.from_dict(settings["config"])
                parameters = _parameter_count({**settings, "config": config})
                weights = io.BytesIO(archive.read(WEIGHTS_FILE))
                _check_size(WEIGHTS_FILE, count_numbers(WEIGHTS_FILE, weights), parameters)
    except InputError:
        raise
    except (zipfile.BadZipFile, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged or not a Keras model: {first_line(error)}") from error
    return _KerasFile(file, class_name, settings, lambda model: None)
