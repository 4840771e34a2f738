"""Models of Hugging Face Transformers (`ImageGPTFor…`), read and written.

It is the same network with one token embedding of V + 1 rows, whose last row is the
start vector, and with bias vectors on the linear maps of the blocks. Its linear maps
are stored [in, out] as in Keras, its two heads [out, in].
"""

import json
import os
import pathlib
import re

import numpy as np
import PIL.Image
import safetensors
import safetensors.numpy
from keras import ops

from igpt_keras import paper
from igpt_keras.atomic import atomic_path
from igpt_keras.convert.checks import check_tensors, naming, square_side
from igpt_keras.errors import InputError
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.tokenizers.base import check_images
from igpt_keras.tokenizers.color_palette import ColorPalette

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
SHARDS_FILE = "model.safetensors.index.json"
TORCH_FILE = "pytorch_model.bin"
PREPROCESSOR_FILE = "preprocessor_config.json"

GENERATIVE_CLASS = "ImageGPTForCausalImageModeling"
CLASSIFIER_CLASS = "ImageGPTForImageClassification"

# What Transformers assumes where config.json is silent.
DEFAULT_SIZES = {"vocab_size": 513, "n_positions": 1024, "n_embd": 512, "n_layer": 24, "n_head": 8}
DEFAULT_NUM_CLASSES = 2

# The settings that change what the network computes; `n_inner` is checked by itself.
SUPPORTED_SETTINGS = {
    "activation_function": "quick_gelu",
    "layer_norm_epsilon": paper.NORM_EPSILON,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": False,
}

PREFIX = "transformer."
TOKEN_EMBEDDING = "transformer.wte.weight"
TOKEN_HEAD = "lm_head.weight"
CLASS_HEAD = "score.weight"
# Older files store the causal mask as well.
CAUSAL_MASK_BUFFER = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")


def load_huggingface(folder: str | os.PathLike) -> ImageGPT | ImageGPTClassifier:
    """Reads a folder that Transformers' `save_pretrained` wrote.

    Args:
        folder: holds `config.json` and the weights, `model.safetensors` (also in
            shards) or `pytorch_model.bin`; the latter needs PyTorch. The colors in
            `preprocessor_config.json`, where there is one, become the palette.

    Returns: for `ImageGPTForCausalImageModeling` an `ImageGPT`, for
        `ImageGPTForImageClassification` an `ImageGPTClassifier` with
        `generative_weight=0`; both autoregressive, with biases. The weights tell
        which it is; where both heads are there, `architectures` does.

    Raises:
        InputError: a missing or damaged file, a setting that Image GPT here does not
            have, a missing, superfluous or misshapen tensor; named.
    """
    folder = pathlib.Path(folder)
    config_file = folder / CONFIG_FILE
    settings = _read_json(config_file)
    config = _model_config(settings, config_file)
    palette = _read_palette(folder / PREPROCESSOR_FILE)
    weights_file, tensors = _read_tensors(folder)
    if _is_classifier(weights_file, tensors, settings):
        tensors.pop(TOKEN_HEAD, None)
        class_names = _class_names(settings, config_file)
        with naming(folder):
            model = ImageGPTClassifier(
                config,
                len(class_names),
                generative_weight=0,
                class_names=class_names,
                tokenizer=palette,
            )
    else:
        tensors.pop(CLASS_HEAD, None)
        with naming(folder):
            model = ImageGPT(config, tokenizer=palette)
    _assign(model, tensors, weights_file)
    return model


def save_huggingface(
    model: ImageGPT | ImageGPTClassifier, folder: str | os.PathLike, overwrite: bool = False
) -> pathlib.Path:
    """Writes a folder that Transformers' `from_pretrained` reads, whole or not at all.

    An `ImageGPT` becomes an `ImageGPTForCausalImageModeling`, an `ImageGPTClassifier`
    an `ImageGPTForImageClassification`, which has no generative head: that of the
    classifier is left out. Maps without bias get biases of zero. The palette, where
    the model has one, makes the folder's `ImageGPTImageProcessor`. Dropout is 0.

    Args:
        model: an autoregressive model. Transformers expects the start token (V) in
            front of its input: of our tokens, V followed by all but the last.
        folder: where to write.
        overwrite: whether an existing folder is replaced.

    Returns: the folder's path.

    Raises:
        InputError: a BERT model, or a classifier of a layer before the last; Transformers
            has no such thing.
        FileExistsError: `folder` exists and `overwrite` is false, or it holds no model.
        OSError: the folder cannot be written.
    """
    if model.objective != "ar":
        raise InputError(
            "Hugging Face's ImageGPT is autoregressive only, "
            f'got a model with objective="{model.objective}"'
        )
    last = model.config.num_layers
    if isinstance(model, ImageGPTClassifier) and model.layer != last:
        raise InputError(
            f"Hugging Face's classifier reads the last layer, {last}; got layer={model.layer}"
        )
    with atomic_path(folder, overwrite, marker=CONFIG_FILE) as partial:
        partial.mkdir()
        _write_json(partial / CONFIG_FILE, _settings(model))
        try:
            safetensors.numpy.save_file(
                _tensors(model), partial / WEIGHTS_FILE, metadata={"format": "pt"}
            )
        except safetensors.SafetensorError as error:
            raise OSError(f"{folder}: {WEIGHTS_FILE} cannot be written: {error}") from error
        if model.tokenizer is not None:
            _write_json(partial / PREPROCESSOR_FILE, _preprocessor(model))
    return pathlib.Path(folder)


def image_processor_tokens(images, palette: ColorPalette, image_size: int) -> np.ndarray:
    """The tokens that Transformers' `ImageGPTImageProcessor` makes of images.

    It resizes each image to a square by bilinear interpolation, whatever its aspect
    ratio, and takes the nearest colors. This is its PIL backend; torchvision's rounds
    a few channels in a thousand to the next value, which may change a token.

    Args:
        images: uint8 [B, H, W, 3] (or 1 channel, gray).
        palette: the colors.
        image_size: side of the square.

    Returns: int32 [B, image_size²], in raster order.

    Raises:
        InputError: images of another rank, dtype or number of channels.
    """
    images = check_images(images)
    if images.ndim != 4:
        raise InputError(
            f"images must have shape [batch, height, width, 3], got {list(images.shape)}"
        )
    size = (image_size, image_size)
    resized = np.empty((len(images), *size, 3), np.uint8)
    for index, image in enumerate(images):
        resized[index] = PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BILINEAR)
    return palette.tokenize(resized)


def _model_config(settings: dict, file: pathlib.Path) -> ImageGPTConfig:
    if settings.get("model_type") != "imagegpt":
        raise InputError(
            f'{file}: model_type must be "imagegpt", got {settings.get("model_type")!r}'
        )
    for name, supported in SUPPORTED_SETTINGS.items():
        value = settings.get(name, supported)
        if value != supported:
            raise InputError(f"{file}: {name} is {value!r}; only {supported!r} is supported")
    sizes = {name: settings.get(name, default) for name, default in DEFAULT_SIZES.items()}
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{file}: {name} must be a positive integer, got {value!r}")
    width = 4 * sizes["n_embd"]
    if settings.get("n_inner") not in (None, width):
        raise InputError(
            f"{file}: n_inner is {settings['n_inner']!r}; "
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


def _class_names(settings: dict, file: pathlib.Path) -> list[str]:
    """The names of id2label in the order of the classes."""
    id2label = settings.get("id2label")
    if id2label is None:
        return [f"LABEL_{index}" for index in range(DEFAULT_NUM_CLASSES)]
    try:
        return [str(id2label[str(index)]) for index in range(len(id2label))]
    except (KeyError, TypeError):
        raise InputError(
            f'{file}: id2label must map "0", "1", … to the names of the classes, got {id2label!r}'
        ) from None


def _read_palette(file: pathlib.Path) -> ColorPalette | None:
    if not file.is_file():
        return None
    clusters = _read_json(file).get("clusters")
    if clusters is None:
        return None
    try:
        return ColorPalette(clusters)
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: clusters are no palette: {error}") from None


def _read_tensors(folder: pathlib.Path) -> tuple[pathlib.Path, dict[str, np.ndarray]]:
    """The file that lists the weights, and the weights by name."""
    if (folder / WEIGHTS_FILE).is_file():
        file = folder / WEIGHTS_FILE
        tensors = _read_safetensors(file)
    elif (folder / SHARDS_FILE).is_file():
        file = folder / SHARDS_FILE
        tensors = _read_shards(file)
    elif (folder / TORCH_FILE).is_file():
        file = folder / TORCH_FILE
        tensors = _read_torch(file)
    else:
        raise InputError(f"{folder} holds neither {WEIGHTS_FILE} nor {TORCH_FILE}")
    return file, {
        _full_name(name): tensor
        for name, tensor in tensors.items()
        if not CAUSAL_MASK_BUFFER.fullmatch(name)
    }


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
    weight_map = _read_json(file).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InputError(f"{file}: weight_map must name the file of each tensor")
    tensors = {}
    for shard in sorted({str(name) for name in weight_map.values()}):
        tensors.update(_read_safetensors(file.parent / shard))
    return tensors


def _read_torch(file: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ModuleNotFoundError:
        raise InputError(
            f"reading {file} needs PyTorch: pip install torch, "
            f"or put the {WEIGHTS_FILE} of the same model beside it"
        ) from None
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in tensors.items()}
    except Exception as error:  # PyTorch has no exception of its own for a damaged file
        raise InputError(f"{file} is damaged or not a file of weights: {error!r}") from error


def _is_classifier(file: pathlib.Path, tensors: dict, settings: dict) -> bool:
    if TOKEN_HEAD in tensors and CLASS_HEAD in tensors:
        return CLASSIFIER_CLASS in (settings.get("architectures") or [])
    if TOKEN_HEAD not in tensors and CLASS_HEAD not in tensors:
        raise InputError(
            f"{file} holds neither {TOKEN_HEAD} ({GENERATIVE_CLASS}) "
            f"nor {CLASS_HEAD} ({CLASSIFIER_CLASS})"
        )
    return CLASS_HEAD in tensors


def _block_layers(model: GenerativeModel):
    """Pairs of a linear map's name and the layer."""
    for index, block in enumerate(model.backbone.blocks):
        prefix = f"{PREFIX}h.{index}"
        yield f"{prefix}.attn.c_attn", block.attention.qkv
        yield f"{prefix}.attn.c_proj", block.attention.output_proj
        yield f"{prefix}.mlp.c_fc", block.mlp.up_proj
        yield f"{prefix}.mlp.c_proj", block.mlp.down_proj


def _variables(model: GenerativeModel) -> dict:
    """The variables that stand in a file as they are, by the tensor's name."""
    backbone = model.backbone
    variables = {f"{PREFIX}wpe.weight": backbone.embedding.position_embedding}
    for index, block in enumerate(backbone.blocks):
        variables[f"{PREFIX}h.{index}.ln_1.weight"] = block.attention_norm.scale
        variables[f"{PREFIX}h.{index}.ln_2.weight"] = block.mlp_norm.scale
    for name, layer in _block_layers(model):
        variables[f"{name}.weight"] = layer.kernel
        if layer.use_bias:
            variables[f"{name}.bias"] = layer.bias
    variables[f"{PREFIX}ln_f.weight"] = backbone.final_norm.scale
    return variables


def _head(model: GenerativeModel):
    """Name and variable [d, out] of the head; the file holds its transpose."""
    if isinstance(model, ImageGPTClassifier):
        return CLASS_HEAD, model.class_head.kernel
    return TOKEN_HEAD, model.token_head.kernel


def _assign(model: GenerativeModel, tensors: dict[str, np.ndarray], file: pathlib.Path) -> None:
    """Gives `model` the weights of `tensors`, having checked that they are all there."""
    variables = _variables(model)
    head_name, head = _head(model)
    embedding = model.backbone.embedding
    vocabulary_size, d = embedding.token_embedding.shape
    expected = {
        TOKEN_EMBEDDING: (vocabulary_size + 1, d),
        **{name: variable.shape for name, variable in variables.items()},
        head_name: tuple(reversed(head.shape)),
    }
    check_tensors(file, expected, {name: tensor.shape for name, tensor in tensors.items()})
    for name, variable in variables.items():
        variable.assign(tensors[name])
    embedding.token_embedding.assign(tensors[TOKEN_EMBEDDING][:-1])
    embedding.start_vector.assign(tensors[TOKEN_EMBEDDING][-1])
    head.assign(tensors[head_name].T)


def _tensors(model: GenerativeModel) -> dict[str, np.ndarray]:
    """What `_assign` reads, of `model`."""
    tensors = {name: _float32(variable) for name, variable in _variables(model).items()}
    for name, layer in _block_layers(model):
        if not layer.use_bias:
            tensors[f"{name}.bias"] = np.zeros(layer.kernel.shape[-1], np.float32)
    embedding = model.backbone.embedding
    tensors[TOKEN_EMBEDDING] = np.concatenate(
        [_float32(embedding.token_embedding), _float32(embedding.start_vector)[None]]
    )
    head_name, head = _head(model)
    tensors[head_name] = _float32(head).T
    # safetensors writes the memory of an array as if it were contiguous.
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def _float32(variable) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), np.float32)


def _settings(model: GenerativeModel) -> dict:
    """The `config.json` of `model`."""
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
        "initializer_range": 0.02,
        "dtype": "float32",
    }
    if isinstance(model, ImageGPTClassifier):
        settings["architectures"] = [CLASSIFIER_CLASS]
        settings["id2label"] = {str(i): name for i, name in enumerate(model.class_names)}
        settings["label2id"] = {name: i for i, name in enumerate(model.class_names)}
    return settings


def _preprocessor(model: GenerativeModel) -> dict:
    """The `preprocessor_config.json` of `model`, which has a palette."""
    side = model.config.image_size
    return {
        "image_processor_type": "ImageGPTImageProcessor",
        "clusters": model.tokenizer.colors.tolist(),
        "do_color_quantize": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": int(PIL.Image.Resampling.BILINEAR),
        "rescale_factor": 1 / 255,
        "size": {"height": side, "width": side},
    }


def _write_json(path: pathlib.Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _read_json(file: pathlib.Path) -> dict:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{file} must hold a JSON object, got {type(value).__name__}")
    return value
