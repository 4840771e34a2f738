"""Snapshots of the original TensorFlow 1 code (github.com/openai/image-gpt), read.

Notation: H heads of width D = d / H, V colors, n positions, C classes. Attention maps
are stored per head, all four as [H, D, d]; both heads of the model as [out, d].
"""

import os
import pathlib
import re
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from igpt_keras.convert.checks import (
    CHECKPOINT_FILE,
    Shapes,
    check_tensors,
    naming,
    square_side,
)
from igpt_keras.errors import InputError
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.tokenizers.color_palette import ColorPalette

PALETTE_FILE = "kmeans_centers.npy"
START_VECTOR = "model/sos"
CLASS_HEAD = "model/clf/wclf"

# TensorFlow's reader raises IndexError where a data file ends too early.
READ_ERRORS = (tf.errors.OpError, IndexError)


def load_openai(prefix: str | os.PathLike) -> ImageGPT | ImageGPTClassifier:
    """Reads a checkpoint that the original code wrote.

    The sizes and the objective ("ar" where there is a start vector, "bert" otherwise)
    follow from the variables. Those of an optimizer are ignored. A
    `kmeans_centers.npy` beside the checkpoint becomes the palette, if it has as many
    colors as there are tokens.

    Args:
        prefix: the checkpoint's path without `.index`, such as `model.ckpt-1000000`.

    Returns: an `ImageGPT`, or an `ImageGPTClassifier` with `generative_weight=1` where
        the checkpoint has a class projection.

    Raises:
        FileNotFoundError: no checkpoint with this prefix.
        InputError: one of the checkpoint's files instead of the prefix; a missing or
            damaged file; a missing, superfluous or misshapen variable; named.
    """
    prefix = os.fspath(prefix)
    if file := CHECKPOINT_FILE.fullmatch(prefix):
        raise InputError(f"{prefix} is one file of a checkpoint; give its prefix, {file[1]}")
    if not os.path.isfile(f"{prefix}.index"):
        raise FileNotFoundError(f"no checkpoint {prefix}: {prefix}.index does not exist")
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = _model_shapes(reader.get_variable_to_shape_map())
    except READ_ERRORS as error:
        raise InputError(f"checkpoint {prefix} cannot be read: {error}") from None

    def read(name: str) -> np.ndarray:
        try:
            return reader.get_tensor(name)
        except READ_ERRORS as error:
            raise InputError(f"checkpoint {prefix}: {name} cannot be read: {error}") from None

    config = _infer_config(shapes, prefix)
    check_tensors(prefix, _expected_shapes(config, shapes), shapes)
    model = _empty_model(config, shapes, prefix)
    _assign(model, read)
    return model


def latest_prefix(folder: str | os.PathLike) -> str:
    """The prefix that the file `checkpoint` in `folder` names.

    Raises:
        InputError: it names none that is there.
    """
    prefix = tf.train.latest_checkpoint(folder)
    if prefix is None:
        raise InputError(f"{folder}/checkpoint names no checkpoint that is there")
    return prefix


def _model_shapes(shapes: Shapes) -> Shapes:
    """The model's own: not those of an optimizer, which are `<variable>/<slot>` or elsewhere."""
    return {
        name: tuple(shape)
        for name, shape in shapes.items()
        if name.startswith("model/") and name.rpartition("/")[0] not in shapes
    }


def _infer_config(shapes: Shapes, prefix: str) -> ImageGPTConfig:
    def sizes(name: str, rank: int) -> tuple[int, ...]:
        if name not in shapes:
            raise InputError(f"{prefix} lacks the tensor {name}")
        if len(shapes[name]) != rank:
            raise InputError(
                f"{prefix}: {name} must have {rank} dimensions, got {list(shapes[name])}"
            )
        return shapes[name]

    vocabulary_size, hidden_dim = sizes("model/wte", 2)
    sequence_length, _ = sizes("model/wpe", 2)
    num_heads, _, _ = sizes("model/h0/attn/q_proj", 3)
    blocks = {int(match[1]) for name in shapes if (match := re.match(r"model/h(\d+)/", name))}
    with naming(prefix):
        return ImageGPTConfig(
            image_size=square_side(sequence_length, prefix, "the number of rows of model/wpe"),
            vocabulary_size=vocabulary_size,
            hidden_dim=hidden_dim,
            num_layers=1 + max(blocks),
            num_heads=num_heads,
        )


def _expected_shapes(config: ImageGPTConfig, found: Shapes) -> Shapes:
    """The shapes of a model of these sizes, with those of the optional parts it has."""
    d = config.hidden_dim
    shapes = {
        "model/wte": (config.vocabulary_size, d),
        "model/wpe": (config.sequence_length, d),
        "model/ln_f/g": (d,),
        "model/wtet": (config.vocabulary_size, d),
    }
    if START_VECTOR in found:
        shapes[START_VECTOR] = (d,)
    if CLASS_HEAD in found:
        shapes[CLASS_HEAD] = (*found[CLASS_HEAD][:1], d)
    for index in range(config.num_layers):
        block = f"model/h{index}"
        shapes[f"{block}/ln_1/g"] = shapes[f"{block}/ln_2/g"] = (d,)
        for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
            shapes[f"{block}/attn/{name}"] = (config.num_heads, config.head_dim, d)
        shapes[f"{block}/mlp/c_fc/w"] = (d, 4 * d)
        shapes[f"{block}/mlp/c_proj/w"] = (4 * d, d)
    return shapes


def _empty_model(config: ImageGPTConfig, shapes: Shapes, prefix: str) -> GenerativeModel:
    objective = "ar" if START_VECTOR in shapes else "bert"
    palette = _read_palette(pathlib.Path(prefix).parent / PALETTE_FILE, config.vocabulary_size)
    if CLASS_HEAD not in shapes:
        return ImageGPT(config, objective, tokenizer=palette)
    with naming(prefix):
        return ImageGPTClassifier(config, shapes[CLASS_HEAD][0], objective, tokenizer=palette)


def _read_palette(file: pathlib.Path, num_colors: int) -> ColorPalette | None:
    if not file.is_file():
        return None
    palette = ColorPalette.load(file)
    return palette if palette.vocabulary_size == num_colors else None


def _assign(model: GenerativeModel, read: Callable[[str], np.ndarray]) -> None:
    backbone, d = model.backbone, model.config.hidden_dim
    backbone.embedding.token_embedding.assign(read("model/wte"))
    backbone.embedding.position_embedding.assign(read("model/wpe"))
    if model.objective == "ar":
        backbone.embedding.start_vector.assign(read(START_VECTOR))
    for index, block in enumerate(backbone.blocks):
        name = f"model/h{index}"
        block.attention_norm.scale.assign(read(f"{name}/ln_1/g"))
        block.attention.qkv.kernel.assign(
            # [H, D, d] to [d, H · D]
            np.concatenate([read(f"{name}/attn/{x}_proj").reshape(d, d).T for x in "qkv"], axis=1)
        )
        block.attention.output_proj.kernel.assign(read(f"{name}/attn/c_proj").reshape(d, d))
        block.mlp_norm.scale.assign(read(f"{name}/ln_2/g"))
        block.mlp.up_proj.kernel.assign(read(f"{name}/mlp/c_fc/w"))
        block.mlp.down_proj.kernel.assign(read(f"{name}/mlp/c_proj/w"))
    backbone.final_norm.scale.assign(read("model/ln_f/g"))
    model.token_head.kernel.assign(read("model/wtet").T)
    if isinstance(model, ImageGPTClassifier):
        model.class_head.kernel.assign(read(CLASS_HEAD).T)
