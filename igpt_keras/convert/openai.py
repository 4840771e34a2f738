"""Reads checkpoints of the original TensorFlow 1 code (github.com/openai/image-gpt).

Notation: H heads of width D = d / H, V colors, n positions, C classes. Attention projections
are stored per head, all four as [H, D, d]; both heads of the model as [out, d].
"""

import glob
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from igpt_keras import paper
from igpt_keras.convert.stored_model import (
    CHECKPOINT_FILE,
    StoredModel,
    check_tensors,
    naming,
    square_side,
)
from igpt_keras.errors import InputError, first_line
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.network.protocols import TokenModel
from igpt_keras.tokenizers.color_palette import ColorPalette

PALETTE_FILE = "kmeans_centers.npy"
TOKEN_EMBEDDING = "model/wte"
POSITION_EMBEDDING = "model/wpe"
START_VECTOR = "model/sos"
CLASS_HEAD = "model/clf/wclf"
TOKEN_HEAD = "model/wtet"
FINAL_NORM = "model/ln_f/g"

# TensorFlow's reader raises IndexError where a data file ends too early.
READ_ERRORS = (tf.errors.OpError, IndexError)

Shapes = Mapping[str, tuple[int, ...]]


def read_openai(prefix: str | os.PathLike, wanted_class: str | None = None) -> StoredModel:
    """Reads a checkpoint that the original code wrote.

    The sizes and the objective ("ar" if there is a start vector, else "bert") follow from the
    variables. Those of an optimizer are ignored. A `kmeans_centers.npy` in the same folder
    becomes the palette if it has as many colors as there are tokens.

    Args:
        prefix: The checkpoint's path without `.index`, such as `model.ckpt-1000000`.
        wanted_class: "ImageGPT" to leave out the class projection; None for the class that
            has all that the checkpoint holds.

    Returns:
        An `ImageGPTClassifier` with the generative loss if the checkpoint has a class
        projection, else an `ImageGPT`.

    Raises:
        FileNotFoundError: There is no checkpoint with this prefix.
        InputError: The path is one of the checkpoint's files; a file is missing or damaged;
            or a variable is missing, superfluous or has another shape.
    """
    prefix = os.path.expanduser(prefix)
    if file := CHECKPOINT_FILE.fullmatch(prefix):
        raise InputError(f"{prefix} is one file of a checkpoint; give its prefix, {file[1]}")
    if not os.path.isfile(f"{prefix}.index"):
        raise FileNotFoundError(f"no checkpoint {prefix}: {prefix}.index does not exist")
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = _model_shapes(reader.get_variable_to_shape_map())
    except READ_ERRORS as error:
        raise InputError(f"checkpoint {prefix} cannot be read: {first_line(error)}") from None
    _check_size(prefix, shapes, reader.get_variable_to_dtype_map())

    def read(name: str) -> np.ndarray:
        try:
            return reader.get_tensor(name)
        except READ_ERRORS as error:
            raise InputError(
                f"checkpoint {prefix}: {name} cannot be read: {first_line(error)}"
            ) from None

    config = _infer_config(shapes, prefix)
    check_tensors(prefix, _expected_shapes(config, shapes), shapes)
    class_name, settings = (
        "ImageGPT",
        {
            "config": config,
            "objective": "ar" if START_VECTOR in shapes else "bert",
            "tokenizer": _read_palette(pathlib.Path(prefix).parent, config.vocabulary_size),
        },
    )
    if CLASS_HEAD in shapes and wanted_class != "ImageGPT":
        class_name = "ImageGPTClassifier"
        settings["num_classes"] = shapes[CLASS_HEAD][0]
    return StoredModel(prefix, class_name, settings, lambda model: _assign(model, read))


def latest_prefix(folder: str | os.PathLike) -> str:
    """Returns the prefix that the file `checkpoint` in `folder` names.

    Raises:
        InputError: It names a checkpoint that does not exist or lies in another folder.
    """
    folder = pathlib.Path(folder).expanduser()
    try:
        prefix = tf.train.latest_checkpoint(folder)
    except (ValueError, *READ_ERRORS):  # An empty list, or bytes that are not UTF-8.
        prefix = None
    if prefix is None:
        raise InputError(f"{folder}/checkpoint names no checkpoint that exists")
    if pathlib.Path(prefix).parent.resolve() != folder.resolve():
        raise InputError(
            f"{folder}/checkpoint names a checkpoint elsewhere, {prefix}; give that prefix itself"
        )
    return prefix


def _check_size(prefix: str, shapes: Shapes, dtypes: Mapping[str, tf.DType]) -> None:
    """Checks that the data files can hold what the index declares, before it is allocated."""
    for name in shapes:
        if not dtypes[name].is_floating:
            raise InputError(
                f"{prefix}: {name} must hold floating-point numbers, got {dtypes[name].name}"
            )
    declared = sum(math.prod(shape) * dtypes[name].size for name, shape in shapes.items())
    path = pathlib.Path(prefix)
    files = path.parent.glob(f"{glob.escape(path.name)}.data-*")
    stored = sum(file.stat().st_size for file in files)
    if declared > stored:
        raise InputError(
            f"{prefix}.index declares {declared:,} bytes of variables, "
            f"{path.name}.data-* hold {stored:,}"
        )


def _model_shapes(shapes: Shapes) -> Shapes:
    """Leaves out the variables of an optimizer: `<variable>/<slot>`, or outside `model/`."""
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

    vocabulary_size, hidden_dim = sizes(TOKEN_EMBEDDING, 2)
    sequence_length, _ = sizes(POSITION_EMBEDDING, 2)
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


def _expected_shapes(
    config: ImageGPTConfig, found: Shapes
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the shapes of a model of these sizes, with those of the optional parts it has."""
    d = config.hidden_dim
    width = paper.MLP_RATIO * d
    yield TOKEN_EMBEDDING, (config.vocabulary_size, d)
    yield POSITION_EMBEDDING, (config.sequence_length, d)
    yield FINAL_NORM, (d,)
    yield TOKEN_HEAD, (config.vocabulary_size, d)
    if START_VECTOR in found:
        yield START_VECTOR, (d,)
    if CLASS_HEAD in found:
        yield CLASS_HEAD, (*found[CLASS_HEAD][:1], d)
    for index in range(config.num_layers):
        block = f"model/h{index}"
        yield f"{block}/ln_1/g", (d,)
        yield f"{block}/ln_2/g", (d,)
        for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
            yield f"{block}/attn/{name}", (config.num_heads, config.head_dim, d)
        yield f"{block}/mlp/c_fc/w", (d, width)
        yield f"{block}/mlp/c_proj/w", (width, d)


def _read_palette(folder: pathlib.Path, num_colors: int) -> ColorPalette | None:
    file = folder / PALETTE_FILE
    if not file.is_file():
        return None
    palette = ColorPalette.load(file)
    return palette if palette.vocabulary_size == num_colors else None


def _assign(model: TokenModel, read: Callable[[str], np.ndarray]) -> None:
    backbone, d = model.backbone, model.config.hidden_dim
    backbone.embedding.token_embedding.assign(read(TOKEN_EMBEDDING))
    backbone.embedding.position_embedding.assign(read(POSITION_EMBEDDING))
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
    backbone.final_norm.scale.assign(read(FINAL_NORM))
    if model.generative_weight > 0:
        model.token_head.kernel.assign(read(TOKEN_HEAD).T)
    class_head = getattr(model, "class_head", None)
    if class_head is not None:
        class_head.kernel.assign(read(CLASS_HEAD).T)
