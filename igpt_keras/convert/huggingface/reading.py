"""Reads models of Hugging Face Transformers."""

import dataclasses
import os
import pathlib
from collections.abc import Container
from typing import Any

from igpt_keras import paper
from igpt_keras.convert.huggingface.layout import (
    CLASS_HEAD,
    CLASSIFIER_CLASS,
    CONFIG_FILE,
    GENERATIVE_CLASS,
    PREPROCESSOR_FILE,
    SUPPORTED_SETTINGS,
    TOKEN_EMBEDDING,
    TOKEN_HEAD,
    head_of,
    tensor_shapes,
    variables,
)
from igpt_keras.convert.huggingface.weights import StoredTensor, open_weights
from igpt_keras.convert.stored_model import StoredModel, check_tensors, naming, square_side
from igpt_keras.errors import InputError
from igpt_keras.json_files import read_object
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.network.protocols import TokenModel
from igpt_keras.tokenizers.color_palette import ColorPalette

# What Transformers assumes where config.json is silent.
DEFAULT_SIZES = {"vocab_size": 513, "n_positions": 1024, "n_embd": 512, "n_layer": 24, "n_head": 8}
DEFAULT_NUM_CLASSES = 2


def read_huggingface(folder: str | os.PathLike, wanted_class: str | None = None) -> StoredModel:
    """Reads a folder that Transformers' `save_pretrained` wrote.

    Args:
        folder: Holds `config.json` and the weights: `model.safetensors`, also in shards, or
            `pytorch_model.bin`, which needs PyTorch. The colors in
            `preprocessor_config.json`, if present, become the palette.
        wanted_class: The class to read if the weights have both heads; None for the one
            that `architectures` names.

    Returns:
        An `ImageGPT` for `ImageGPTForCausalImageModeling`. For
        `ImageGPTForImageClassification`, an `ImageGPTClassifier` with `generative_weight=0`
        and `shift_right=False`: Transformers' classifier is given the n tokens of an image
        without a start token. Both are autoregressive. They have biases unless all biases in
        the file are zero, as in a model that was trained without.

    Raises:
        InputError: A file is missing or damaged, a setting is not supported, or a tensor is
            missing, superfluous or has another shape.
    """
    folder = pathlib.Path(folder).expanduser()
    config_file = folder / CONFIG_FILE
    description = read_object(config_file)
    config = _model_config(description, config_file)
    weights_file, tensors = open_weights(folder)
    if _is_classifier(weights_file, set(tensors), description, config_file, wanted_class):
        tensors.pop(TOKEN_HEAD, None)
        class_names = _class_names(description, config_file)
        class_settings: dict[str, Any] = {
            "num_classes": len(class_names),
            "class_names": class_names,
            "generative_weight": 0,
            "shift_right": False,
        }
        class_name, head, head_size = "ImageGPTClassifier", CLASS_HEAD, len(class_names)
    else:
        tensors.pop(CLASS_HEAD, None)
        class_settings = {}
        class_name, head, head_size = "ImageGPT", TOKEN_HEAD, config.vocabulary_size
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    check_tensors(weights_file, tensor_shapes(config, head, head_size), shapes)
    has_biases = any(x.read().any() for name, x in tensors.items() if name.endswith(".bias"))
    settings = {
        "config": dataclasses.replace(config, use_bias=has_biases),
        "tokenizer": _read_palette(folder / PREPROCESSOR_FILE),
        **class_settings,
    }
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
    numbers = range(len(id2label)) if isinstance(id2label, dict) else range(0)
    names = [name for i in numbers if isinstance(name := id2label.get(str(i)), str)]
    if not names or len(names) < len(numbers):
        raise InputError(
            f'{file}: id2label must map "0", "1", … to the names of the classes, '
            f"got {id2label!r:.200}"
        )
    return names


def _read_palette(file: pathlib.Path) -> ColorPalette | None:
    clusters = read_object(file).get("clusters") if file.is_file() else None
    if clusters is None:
        return None
    try:
        return ColorPalette(clusters)
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: clusters are not a palette: {error}") from None


def _is_classifier(
    file: pathlib.Path,
    tensors: Container[str],
    description: dict[str, Any],
    config_file: pathlib.Path,
    wanted_class: str | None,
) -> bool:
    if TOKEN_HEAD in tensors and CLASS_HEAD in tensors:
        if wanted_class is not None:
            return wanted_class == "ImageGPTClassifier"
        architectures = description.get("architectures") or []
        if not isinstance(architectures, list):
            raise InputError(
                f"{config_file}: architectures must be a list, got {architectures!r:.200}"
            )
        return CLASSIFIER_CLASS in architectures
    if TOKEN_HEAD not in tensors and CLASS_HEAD not in tensors:
        raise InputError(
            f"{file} holds neither {TOKEN_HEAD} ({GENERATIVE_CLASS}) "
            f"nor {CLASS_HEAD} ({CLASSIFIER_CLASS})"
        )
    return CLASS_HEAD in tensors


def _assign(model: TokenModel, tensors: dict[str, StoredTensor]) -> None:
    for name, variable in variables(model).items():
        variable.assign(tensors[name].read())
    embedding, rows = model.backbone.embedding, tensors[TOKEN_EMBEDDING].read()
    embedding.token_embedding.assign(rows[:-1])
    embedding.start_vector.assign(rows[-1])
    name, head = head_of(model)
    head.assign(tensors[name].read().T)
