"""The strided attention of the Sparse Transformer.

Child, Gray, Radford, Sutskever: "Generating Long Sequences with Sparse Transformers", 2019,
https://arxiv.org/abs/1904.10509, section 4.3. Shapes: B images, n positions, R rows of l
positions, H heads of width D.
"""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalOperand=false

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from keras import ops

from igpt_keras.network.attention import attention_part, dot_product_attention, merge_parts
from igpt_keras.network.attention_patterns import register_attention_pattern
from igpt_keras.network.attention_patterns._sparse_transformer import SparseTransformerPattern
from igpt_keras.network.rows import from_rows, shifted, sizes, to_rows
from igpt_keras.tensors import Tensor

if TYPE_CHECKING:
    from igpt_keras.network.config import ImageGPTConfig


@register_attention_pattern("strided")
@dataclasses.dataclass(frozen=True)
class Strided(SparseTransformerPattern):
    """A position sees the last l positions, or every l-th one: row and column of an image.

    The paper's text gives a local layer l + 1 keys, i - l … i; its code (`get_attn_mask` of
    github.com/openai/sparse_attention) gives it l. This class does as the code, from which the
    published results are: key i - l is the nearest one of a column layer. Models that are not
    causal, which the paper has not, see positions on both sides.

    Attributes:
        stride: l.
        layer: "local", "column" or "merged", which sees the keys of both.
    """

    stride: int
    layer: str

    options: ClassVar[tuple[str, ...]] = ("stride", "attention_layers")
    layers: ClassVar[tuple[str, ...]] = ("local", "column", "merged")
    default_layers: ClassVar[tuple[str, ...]] = ("local", "column")

    @classmethod
    def for_block(cls, config: "ImageGPTConfig", block: int) -> "Strided":
        return cls(cls._stride_of(config), cls._layer_of(config, block))

    def visible(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        distance = ops.abs(query_positions - key_positions)
        local, column = distance < self.stride, distance % self.stride == 0
        visible = {"local": local, "column": column, "merged": ops.logical_or(local, column)}
        return visible[self.layer]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        length = sizes(query)[1]
        query, key, value = (to_rows(x, self.stride) for x in (query, key, value))
        if self.layer == "column":
            attended = _attend_in_columns(query, key, value, causal)
        elif self.layer == "local":
            attended, _ = self._local_part(query, key, value, causal, with_log_totals=False)
        else:
            local = self._local_part(query, key, value, causal)
            attended = merge_parts([local, _other_rows_of_column(query, key, value, causal)])
        return from_rows(attended, length)

    def keys_of(self, positions: Tensor, capacity: Any) -> Tensor:
        local, rows = ops.arange(self.stride), ops.arange(-(-capacity // self.stride))
        column: Any = ops.multiply(rows, self.stride)
        distances: Any = {
            "local": local,
            "column": column,
            "merged": ops.concatenate([local, column[1:]]),
        }
        return positions[:, None] - distances[self.layer]

    def num_products(self, length: int, causal: bool) -> int:
        local, column = self.stride * (2 if causal else 3), -(-length // self.stride)
        return {"local": local, "column": column, "merged": local + column}[self.layer]

    def num_copies(self) -> int:
        return {"local": 1, "column": 0, "merged": 6}[self.layer]

    def _local_part(self, query, key, value, causal, with_log_totals=True):
        """Rows attend to themselves and to their neighbors: [B, R, l, H, ...], see the module."""
        stride, num_rows = self.stride, sizes(query)[1]

        def visible(queries, keys):
            # Of a query's row, and of keys that begin with the row before.
            keys = keys - stride
            row = ops.arange(num_rows)[:, None, None, None]
            distance = queries - keys
            if causal:
                near = ops.logical_and(distance >= 0, distance < stride)
                return ops.logical_and(near, ops.logical_or(keys >= 0, row > 0))
            positions = row * stride + keys
            exists = ops.logical_and(positions >= 0, positions < num_rows * stride)
            return ops.logical_and(ops.abs(distance) < stride, exists)

        query, key, value = (ops.swapaxes(x, 2, 3) for x in (query, key, value))
        sides = [1] if causal else [1, -1]
        key, value = (
            ops.concatenate([shifted(x, 1), x, *(shifted(x, by) for by in sides[1:])], axis=-2)
            for x in (key, value)
        )
        attended, log_totals = attention_part(
            query, key, value, visible, with_log_totals=with_log_totals
        )
        attended = ops.swapaxes(attended, 2, 3)
        return attended, log_totals if log_totals is None else ops.swapaxes(log_totals, 2, 3)


def _attend_in_columns(query, key, value, causal: bool) -> Tensor:
    """Attention of each column by itself; all [B, R, l, H, D]."""
    batch, rows, stride, *rest = sizes(query)
    query, key, value = (
        ops.reshape(ops.transpose(x, (0, 2, 1, 3, 4)), (batch * stride, rows, *rest))
        for x in (query, key, value)
    )
    attended = dot_product_attention(query, key, value, causal)
    attended = ops.reshape(attended, (batch, stride, rows, *rest))
    return ops.transpose(attended, (0, 2, 1, 3, 4))


def _other_rows_of_column(query, key, value, causal: bool) -> Any:
    """Attention to a query's column without the query itself: [B, R, l, H, ...] to the same."""
    query, key, value = (ops.transpose(x, (0, 2, 3, 1, 4)) for x in (query, key, value))
    num_rows = sizes(query)[-2]
    attended, log_totals = attention_part(
        query,
        key,
        value,
        (lambda queries, keys: keys < queries) if causal else ops.not_equal,
        (lambda stop: stop) if causal else (lambda stop: num_rows),
    )
    return tuple(ops.transpose(x, (0, 3, 1, 2, 4)) for x in (attended, log_totals))
