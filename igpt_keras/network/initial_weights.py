"""Standard deviations of the initial weights, all of them normal around 0.

| name | scheme |
| --- | --- |
| `image_gpt` | that of the published code of Image GPT (`igpt_keras.paper`) |
| `sparse_transformer` | that of the Sparse Transformer (https://arxiv.org/abs/1904.10509) |

Biases and heads begin at 0 in both. The paper of the Sparse Transformer (section 6) gives each
matrix N(0, 0.125 / √d_in), d_in its inputs; its code has a standard deviation of √(0.125 / d_in),
which is what this module takes. Of embeddings the code has constants near the paper's 0.125 / √d
as standard deviations, and this module has those. The matrices that end the two parts of a
block are scaled by 1 / √(2 L), L the number of blocks (section 5.2).
"""

import dataclasses
import math
from collections.abc import Callable

from igpt_keras import paper
from igpt_keras.errors import InputError

GAIN = 0.125
"""Of the Sparse Transformer's initial weights (section 6)."""


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """Standard deviations of a model's initial weights.

    Attributes:
        tokens: Of token embeddings and the start vector.
        positions: Of position embeddings.
        qkv: Of the matrix of queries, keys and values.
        attention_output: Of the matrix after attention.
        mlp_up: Of the first matrix of an MLP.
        mlp_down: Of the second matrix of an MLP.
    """

    tokens: float
    positions: float
    qkv: float
    attention_output: float
    mlp_up: float
    mlp_down: float


def _image_gpt(hidden_dim: int, num_layers: int, axial_positions: bool) -> InitialWeights:
    del axial_positions
    return InitialWeights(
        tokens=paper.EMBEDDING_STDDEV,
        positions=paper.POSITION_STDDEV,
        qkv=paper.qkv_stddev(hidden_dim),
        attention_output=paper.attention_output_stddev(hidden_dim, num_layers),
        mlp_up=paper.MLP_STDDEV,
        mlp_down=paper.MLP_STDDEV,
    )


def _sparse_transformer(hidden_dim: int, num_layers: int, axial_positions: bool) -> InitialWeights:
    def stddev(num_inputs, scale=1.0):
        return math.sqrt(GAIN / num_inputs) * scale

    at_end = 1 / math.sqrt(2 * num_layers)
    embeddings = 2 if axial_positions else 1
    return InitialWeights(
        tokens=GAIN / math.sqrt(hidden_dim),
        positions=GAIN / math.sqrt(hidden_dim * embeddings),
        qkv=stddev(hidden_dim),
        attention_output=stddev(hidden_dim, at_end),
        mlp_up=stddev(hidden_dim),
        mlp_down=stddev(paper.MLP_RATIO * hidden_dim, at_end),
    )


INITIALIZERS: dict[str, Callable[[int, int, bool], InitialWeights]] = {
    "image_gpt": _image_gpt,
    "sparse_transformer": _sparse_transformer,
}


def check_initializer(name: str) -> str:
    """Returns `name`; raises `InputError` if there is no such scheme."""
    if name not in INITIALIZERS:
        raise InputError(f"initializer must be one of {', '.join(INITIALIZERS)}, got {name!r}")
    return name


def initial_weights(
    initializer: str, hidden_dim: int, num_layers: int, axial_positions: bool = False
) -> InitialWeights:
    """Returns the standard deviations of a scheme for a model's sizes.

    Args:
        initializer: Name of the scheme.
        hidden_dim: d.
        num_layers: L.
        axial_positions: Whether positions have two embeddings, of a row and of a column.

    Raises:
        InputError: There is no such scheme.

    Example:
        >>> initial_weights("image_gpt", hidden_dim=512, num_layers=24).mlp_up
        0.02
    """
    return INITIALIZERS[check_initializer(initializer)](hidden_dim, num_layers, axial_positions)
