"""Writes models for Hugging Face Transformers."""

import os
import pathlib
from typing import Any

import numpy as np
import PIL.Image
import safetensors
import safetensors.numpy
from keras import ops

from igpt_keras import paper
from igpt_keras.atomic import atomic_path
from igpt_keras.convert.huggingface.layout import (
    CLASSIFIER_CLASS,
    CONFIG_FILE,
    GENERATIVE_CLASS,
    PREPROCESSOR_FILE,
    SUPPORTED_SETTINGS,
    TOKEN_EMBEDDING,
    WEIGHTS_FILE,
    head_of,
    projections,
    variables,
)
from igpt_keras.errors import InputError
from igpt_keras.json_files import write_json
from igpt_keras.network.protocols import TokenModel
from igpt_keras.network.quantization import check_not_quantized
from igpt_keras.tokenizers.color_palette import ColorPalette
from igpt_keras.tokenizers.image_hints import check_images


def save_huggingface(
    model: TokenModel, folder: str | os.PathLike, overwrite: bool = False
) -> pathlib.Path:
    """Writes a folder that Transformers' `from_pretrained` reads, whole or not at all.

    An `ImageGPT` becomes an `ImageGPTForCausalImageModeling`, an `ImageGPTClassifier` an
    `ImageGPTForImageClassification`. Projections without bias get biases of zero, which
    `from_preset` leaves out again. A palette becomes the folder's `ImageGPTImageProcessor`.
    Dropout is 0.

    Args:
        model: An autoregressive model of pixels; a classifier has `shift_right=False`.
            Transformers' generative model expects the start token (V) in front of its input:
            V, followed by all of our tokens but the last. Its classifier expects our tokens.
        folder: Where to write.
        overwrite: Whether to replace an existing folder.

    Returns:
        The folder's path.

    Raises:
        InputError: Transformers has no such model: the objective is BERT, attention is not
            dense, positions are axial, a classifier has `shift_right=True`, the class head
            does not read the last layer, or the tokenizer is not a palette.
        FileExistsError: `folder` exists and `overwrite` is false, or it holds no model.
        OSError: The folder cannot be written.
    """
    folder = pathlib.Path(folder).expanduser()
    palette = _check_convertible(model)
    with atomic_path(folder, overwrite, marker=CONFIG_FILE) as partial:
        partial.mkdir()
        write_json(partial / CONFIG_FILE, _settings(model))
        try:
            safetensors.numpy.save_file(
                _tensors(model), partial / WEIGHTS_FILE, metadata={"format": "pt"}
            )
        except safetensors.SafetensorError as error:
            raise OSError(f"{folder}: {WEIGHTS_FILE} cannot be written: {error}") from error
        if palette is not None:
            write_json(partial / PREPROCESSOR_FILE, _preprocessor(palette))
    return folder


def _check_convertible(model: TokenModel) -> ColorPalette | None:
    """Returns the palette; raises `InputError` if Transformers has no model like this one."""
    check_not_quantized(model, "Hugging Face's ImageGPT")
    if model.objective != "ar":
        raise InputError(
            "Hugging Face's ImageGPT is autoregressive only, "
            f'got a model with objective="{model.objective}"'
        )
    if model.config.attention != "dense":
        raise InputError(
            "Hugging Face's ImageGPT has dense attention only, got a model with "
            f'attention="{model.config.attention}"'
        )
    if model.config.axial_positions:
        raise InputError(
            "Hugging Face's ImageGPT has an embedding for each position, got a model with "
            "axial_positions=True"
        )
    if model.config.num_classes is not None:
        raise InputError(
            "Hugging Face's ImageGPT has one start vector, got a model with one for each of "
            f"num_classes={model.config.num_classes} classes"
        )
    if getattr(model, "class_head", None) is not None and model.backbone.shift_right:
        raise InputError(
            "Hugging Face's classifier reads the tokens of an image, got one that reads a start "
            "vector and all tokens but the last: its answers would change. Fine-tune a classifier "
            "with shift_right=False and generative_weight=0"
        )
    last = model.config.num_layers
    layer = getattr(model, "layer", last)
    if layer != last:
        raise InputError(f"Hugging Face's classifier reads the last layer, {last}; got {layer=}")
    if model.config.sequence_length != model.config.image_size**2:
        raise InputError(
            "Hugging Face's ImageGPT has one token per pixel, got a model with "
            f"{model.config.sequence_length} tokens for {model.config.image_size}² pixels"
        )
    if not isinstance(model.tokenizer, ColorPalette | None):
        raise InputError(
            "Hugging Face's image processor takes a ColorPalette, "
            f"got a model with a {type(model.tokenizer).__name__}"
        )
    return model.tokenizer


def image_processor_tokens(
    images: np.ndarray, palette: ColorPalette, image_size: int
) -> np.ndarray:
    """Returns the tokens that Transformers' `ImageGPTImageProcessor` makes of images.

    It resizes each image to a square by bilinear interpolation, regardless of its aspect
    ratio, and takes the nearest colors. This is its PIL backend; torchvision's rounds a few
    channels in a thousand to the next value, which may change a token.

    Args:
        images: uint8 [B, H, W, 3], or with one gray channel.
        palette: The colors.
        image_size: Side of the square in pixels.

    Returns:
        int32 [B, image_size²], in raster order.

    Raises:
        InputError: The images have another rank, dtype or number of channels.
    """
    images = check_images(images)
    if images.ndim != 4:
        raise InputError(
            f"images must have shape [batch, height, width, 3], got {list(images.shape)}"
        )
    size = (image_size, image_size)
    resized = np.empty((len(images), *size, 3), np.uint8)
    for index, image in enumerate(images):
        picture = PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BILINEAR)
        resized[index] = np.asarray(picture)
    return palette.bind(image_size).tokenize(resized)


def _tensors(model: TokenModel) -> dict[str, np.ndarray]:
    tensors = {name: _float32(variable) for name, variable in variables(model).items()}
    for name, layer in projections(model):
        if not layer.use_bias:
            tensors[f"{name}.bias"] = np.zeros(tensors[f"{name}.weight"].shape[-1], np.float32)
    embedding = model.backbone.embedding
    tensors[TOKEN_EMBEDDING] = np.concatenate(
        [_float32(embedding.token_embedding), _float32(embedding.start_vector)[None]]
    )
    head_name, head = head_of(model)
    tensors[head_name] = _float32(head).T
    # safetensors writes the memory of an array as if it were contiguous.
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def _float32(variable) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), np.float32)


def _settings(model: TokenModel) -> dict[str, Any]:
    """Returns the content of `config.json`."""
    config = model.config
    settings = {
        "model_type": "imagegpt",
        "architectures": [GENERATIVE_CLASS],
        **SUPPORTED_SETTINGS,
        "vocab_size": config.vocabulary_size + 1,
        "n_positions": config.sequence_length,
        "n_embd": config.hidden_dim,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": None,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "initializer_range": paper.EMBEDDING_STDDEV,
        "dtype": "float32",
    }
    class_names = getattr(model, "class_names", None)
    if class_names is not None:
        settings["architectures"] = [CLASSIFIER_CLASS]
        settings["id2label"] = {str(i): name for i, name in enumerate(class_names)}
        settings["label2id"] = {name: i for i, name in enumerate(class_names)}
    return settings


def _preprocessor(palette: ColorPalette) -> dict[str, Any]:
    """Returns the content of `preprocessor_config.json`."""
    return {
        "image_processor_type": "ImageGPTImageProcessor",
        "clusters": palette.colors.tolist(),
        "do_color_quantize": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": int(PIL.Image.Resampling.BILINEAR),
        "rescale_factor": 1 / 255,
        "size": {"height": palette.image_size, "width": palette.image_size},
    }
