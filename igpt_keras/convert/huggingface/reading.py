"""Reads models of Hugging Face Transformers."""

import importlib
import os
import pathlib
import re
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from igpt_keras import paper
from igpt_keras.convert.huggingface.layout import (
    CLASS_HEAD,
    CLASSIFIER_CLASS,
    CONFIG_FILE,
    GENERATIVE_CLASS,
    PREFIX,
    PREPROCESSOR_FILE,
    SHARDS_FILE,
    SUPPORTED_SETTINGS,
    TOKEN_EMBEDDING,
    TOKEN_HEAD,
    TORCH_FILE,
    WEIGHTS_FILE,
    head_of,
    tensor_shapes,
    variables,
)
from igpt_keras.convert.stored_model import StoredModel, check_tensors, naming, square_side
from igpt_keras.errors import InputError
from igpt_keras.json_files import read_json
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.network.protocols import TokenModel
from igpt_keras.tokenizers.color_palette import ColorPalette

# What Transformers assumes where config.json is silent.
DEFAULT_SIZES = {"vocab_size": 513, "n_positions": 1024, "n_embd": 512, "n_layer": 24, "n_head": 8}
DEFAULT_NUM_CLASSES = 2

# Older files store the causal mask as well.
CAUSAL_MASK_BUFFER = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")


def read_huggingface(folder: str | os.PathLike, wanted_class: str | None = None) -> StoredModel:
    """Reads a folder that Transformers' `save_pretrained` wrote.

    Args:
        folder: Holds `config.json` and the weights: `model.safetensors`, also in shards, or
            `pytorch_model.bin`, which needs PyTorch. The colors in
            `preprocessor_config.json`, if present, become the palette.
        wanted_class: The class to read if the weights have both heads; None for the one
            that `architectures` names.

    Returns:
        An `ImageGPT` for `ImageGPTForCausalImageModeling`, or an `ImageGPTClassifier` with
        `generative_weight=0` for `ImageGPTForImageClassification`; both are autoregressive
        and have biases.

    Raises:
        InputError: A file is missing or damaged, a setting is not supported, or a tensor is
            missing, superfluous or has another shape.
    """
    folder = pathlib.Path(folder)
    config_file = folder / CONFIG_FILE
    description = _read_object(config_file)
    config = _model_config(description, config_file)
    settings: dict[str, Any] = {
        "config": config,
        "tokenizer": _read_palette(folder / PREPROCESSOR_FILE),
    }
    weights_file, tensors = _read_tensors(folder)
    if _is_classifier(weights_file, tensors, description, wanted_class):
        tensors.pop(TOKEN_HEAD, None)
        class_names = _class_names(description, config_file)
        settings |= {
            "num_classes": len(class_names),
            "class_names": class_names,
            "generative_weight": 0,
        }
        class_name, head, head_size = "ImageGPTClassifier", CLASS_HEAD, len(class_names)
    else:
        tensors.pop(CLASS_HEAD, None)
        class_name, head, head_size = "ImageGPT", TOKEN_HEAD, config.vocabulary_size
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    check_tensors(weights_file, tensor_shapes(config, head, head_size), shapes)
    return StoredModel(folder, class_name, settings, lambda model: _assign(model, tensors))


def _model_config(description: dict[str, Any], file: pathlib.Path) -> ImageGPTConfig:
    if description.get("model_type") != "imagegpt":
        raise InputError(
            f'{file}: model_type must be "imagegpt", got {description.get("model_type")!r}'
        )
    for name, supported in SUPPORTED_SETTINGS.items():
        value = description.get(name, supported)
        if value != supported:
            raise InputError(f"{file}: {name} is {value!r}; only {supported!r} is supported")
    sizes = {name: description.get(name, default) for name, default in DEFAULT_SIZES.items()}
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{file}: {name} must be a positive integer, got {value!r}")
    width = paper.MLP_RATIO * sizes["n_embd"]
    if description.get("n_inner") not in (None, width):
        raise InputError(
            f"{file}: n_inner is {description['n_inner']!r}; "
            f"only null or 4 · n_embd = {width} is supported"
        )
    with naming(file):
        return ImageGPTConfig(
            image_size=square_side(sizes["n_positions"], file, "n_positions"),
            vocabulary_size=sizes["vocab_size"] - 1,
            hidden_dim=sizes["n_embd"],
            num_layers=sizes["n_layer"],
            num_heads=sizes["n_head"],
            use_bias=True,
        )


def _class_names(description: dict[str, Any], file: pathlib.Path) -> list[str]:
    """Returns the names in id2label in the order of the classes."""
    id2label = description.get("id2label")
    if id2label is None:
        return [f"LABEL_{index}" for index in range(DEFAULT_NUM_CLASSES)]
    try:
        return [str(id2label[str(index)]) for index in range(len(id2label))]
    except (KeyError, TypeError):
        raise InputError(
            f'{file}: id2label must map "0", "1", … to the names of the classes, got {id2label!r}'
        ) from None


def _read_palette(file: pathlib.Path) -> ColorPalette | None:
    clusters = _read_object(file).get("clusters") if file.is_file() else None
    if clusters is None:
        return None
    try:
        return ColorPalette(clusters)
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: clusters are not a palette: {error}") from None


def _read_object(file: pathlib.Path) -> dict[str, Any]:
    try:
        value = read_json(file)
    except FileNotFoundError:
        raise InputError(f"{file} is missing") from None
    if not isinstance(value, dict):
        raise InputError(f"{file} must hold a JSON object, got {type(value).__name__}")
    return value


def _read_tensors(folder: pathlib.Path) -> tuple[pathlib.Path, dict[str, np.ndarray]]:
    """Returns the file that lists the weights, and the weights by name."""
    readers = {WEIGHTS_FILE: _read_safetensors, SHARDS_FILE: _read_shards, TORCH_FILE: _read_torch}
    for name, read in readers.items():
        file = folder / name
        if file.is_file():
            return file, {
                _full_name(name): tensor
                for name, tensor in read(file).items()
                if not CAUSAL_MASK_BUFFER.fullmatch(name)
            }
    raise InputError(f"{folder} holds neither {WEIGHTS_FILE} nor {TORCH_FILE}")


def _full_name(name: str) -> str:
    if name in (TOKEN_HEAD, CLASS_HEAD) or name.startswith(PREFIX):
        return name
    return PREFIX + name


def _read_safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(file)
    except FileNotFoundError:
        raise InputError(f"{file} is missing") from None
    except safetensors.SafetensorError as error:
        raise InputError(f"{file} is damaged or not a safetensors file: {error}") from None


def _read_shards(file: pathlib.Path) -> dict[str, np.ndarray]:
    weight_map = _read_object(file).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InputError(f"{file}: weight_map must name the file of each tensor")
    tensors = {}
    for shard in sorted({str(name) for name in weight_map.values()}):
        tensors.update(_read_safetensors(file.parent / shard))
    return tensors


def _read_torch(file: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError:
        raise InputError(
            f"reading {file} needs PyTorch: pip install torch, "
            f"or put the {WEIGHTS_FILE} of the same model next to it"
        ) from None
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in tensors.items()}
    except Exception as error:  # PyTorch has no exception of its own for a damaged file.
        raise InputError(f"{file} is damaged or not a file of weights: {error!r}") from error


def _is_classifier(
    file: pathlib.Path,
    tensors: dict[str, np.ndarray],
    description: dict[str, Any],
    wanted_class: str | None,
) -> bool:
    if TOKEN_HEAD in tensors and CLASS_HEAD in tensors:
        if wanted_class is not None:
            return wanted_class == "ImageGPTClassifier"
        return CLASSIFIER_CLASS in (description.get("architectures") or [])
    if TOKEN_HEAD not in tensors and CLASS_HEAD not in tensors:
        raise InputError(
            f"{file} holds neither {TOKEN_HEAD} ({GENERATIVE_CLASS}) "
            f"nor {CLASS_HEAD} ({CLASSIFIER_CLASS})"
        )
    return CLASS_HEAD in tensors


def _assign(model: TokenModel, tensors: dict[str, np.ndarray]) -> None:
    for name, variable in variables(model).items():
        variable.assign(tensors[name])
    embedding = model.backbone.embedding
    embedding.token_embedding.assign(tensors[TOKEN_EMBEDDING][:-1])
    embedding.start_vector.assign(tensors[TOKEN_EMBEDDING][-1])
    name, head = head_of(model)
    head.assign(tensors[name].T)
