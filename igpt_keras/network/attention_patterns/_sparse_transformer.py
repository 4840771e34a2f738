"""What the patterns of the Sparse Transformer share: rows of positions, and layers that differ.

Child, Gray, Radford, Sutskever: "Generating Long Sequences with Sparse Transformers", 2019,
https://arxiv.org/abs/1904.10509.
"""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from igpt_keras.errors import InputError
from igpt_keras.network.attention_patterns import AttentionPattern

if TYPE_CHECKING:
    from igpt_keras.network.config import ImageGPTConfig


@dataclasses.dataclass(frozen=True)
class SparseTransformerPattern(AttentionPattern):
    """A pattern of rows of `stride` positions, with a part of it in each block.

    Attributes:
        layers: Names of the parts.
        default_layers: The parts of consecutive blocks, over and over, if a model names none.
    """

    layers: ClassVar[tuple[str, ...]]
    default_layers: ClassVar[tuple[str, ...]]

    @classmethod
    def _layer_of(cls, config: "ImageGPTConfig", block: int) -> str:
        """Returns the part in a block: they take turns (equation 6 of the paper)."""
        layers = config.attention_layers or cls.default_layers
        if not set(layers) <= set(cls.layers):
            raise InputError(
                f'attention_layers must name layers of attention="{cls.name}", which are '
                f"{', '.join(cls.layers)}; got {', '.join(map(repr, layers))}"
            )
        return layers[block % len(layers)]

    @classmethod
    def _stride_of(cls, config: "ImageGPTConfig") -> int:
        """Returns the stride: a row of the token grid, if a model names none."""
        columns, length = config.token_grid[1], config.sequence_length
        stride = config.stride or columns
        if length % stride:
            raise InputError(
                f"stride must divide the number of tokens, {length}, got {stride}; "
                f"a row of this model's tokens has {columns}"
            )
        return stride
