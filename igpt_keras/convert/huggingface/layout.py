"""Names, shapes and settings of Hugging Face's ImageGPT (`ImageGPTFor…`).

It is the same network with one token embedding of V + 1 rows, whose last row is the start
vector, and with biases on the projections of the blocks. Projections are stored [in, out] as
in Keras, the two heads [out, in].
"""

from collections.abc import Iterator

import keras

from igpt_keras import paper
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.network.protocols import TokenModel

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
SHARDS_FILE = "model.safetensors.index.json"
TORCH_FILE = "pytorch_model.bin"
PREPROCESSOR_FILE = "preprocessor_config.json"

GENERATIVE_CLASS = "ImageGPTForCausalImageModeling"
CLASSIFIER_CLASS = "ImageGPTForImageClassification"

# The settings that change what the network computes; `n_inner` is checked separately.
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
POSITION_EMBEDDING = "transformer.wpe.weight"
FINAL_NORM = "transformer.ln_f.weight"
TOKEN_HEAD = "lm_head.weight"
CLASS_HEAD = "score.weight"


def tensor_shapes(
    config: ImageGPTConfig, head: str, head_size: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields name and shape of each tensor of a model.

    Args:
        config: The sizes.
        head: `TOKEN_HEAD` or `CLASS_HEAD`.
        head_size: Number of logits of the head.
    """
    d = config.hidden_dim
    width = paper.MLP_RATIO * d
    yield TOKEN_EMBEDDING, (config.vocabulary_size + 1, d)
    yield POSITION_EMBEDDING, (config.sequence_length, d)
    for index in range(config.num_layers):
        block = f"{PREFIX}h.{index}"
        yield f"{block}.ln_1.weight", (d,)
        yield f"{block}.ln_2.weight", (d,)
        for name, inputs, outputs in (
            ("attn.c_attn", d, 3 * d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", d, width),
            ("mlp.c_proj", width, d),
        ):
            yield f"{block}.{name}.weight", (inputs, outputs)
            yield f"{block}.{name}.bias", (outputs,)
    yield FINAL_NORM, (d,)
    yield head, (head_size, d)


def projections(model: TokenModel) -> Iterator[tuple[str, keras.layers.Dense]]:
    """Yields name and layer of each projection of the blocks."""
    for index, block in enumerate(model.backbone.blocks):
        prefix = f"{PREFIX}h.{index}"
        yield f"{prefix}.attn.c_attn", block.attention.qkv
        yield f"{prefix}.attn.c_proj", block.attention.output_proj
        yield f"{prefix}.mlp.c_fc", block.mlp.up_proj
        yield f"{prefix}.mlp.c_proj", block.mlp.down_proj


def variables(model: TokenModel) -> dict[str, keras.Variable]:
    """Returns the variables that a file holds as they are, by the tensor's name."""
    backbone = model.backbone
    by_name = {POSITION_EMBEDDING: backbone.embedding.position_embedding}
    for index, block in enumerate(backbone.blocks):
        by_name[f"{PREFIX}h.{index}.ln_1.weight"] = block.attention_norm.scale
        by_name[f"{PREFIX}h.{index}.ln_2.weight"] = block.mlp_norm.scale
    for name, layer in projections(model):
        by_name[f"{name}.weight"] = layer.kernel
        if layer.use_bias:
            by_name[f"{name}.bias"] = layer.bias
    by_name[FINAL_NORM] = backbone.final_norm.scale
    return by_name


def head_of(model: TokenModel) -> tuple[str, keras.Variable]:
    """Returns name and variable [d, out] of the head; the file holds its transpose."""
    class_head = getattr(model, "class_head", None)
    if class_head is not None:
        return CLASS_HEAD, class_head.kernel
    return TOKEN_HEAD, model.token_head.kernel
