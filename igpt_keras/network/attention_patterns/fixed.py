"""The fixed attention of the Sparse Transformer.

Child, Gray, Radford, Sutskever: "Generating Long Sequences with Sparse Transformers", 2019,
https://arxiv.org/abs/1904.10509, section 4.3. Shapes: B images, n positions, R rows of l
positions, H heads of width D, c summary positions in a row.
"""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalOperand=false

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from keras import ops

from igpt_keras.errors import InputError
from igpt_keras.network.attention import attention_part, dot_product_attention, merge_parts
from igpt_keras.network.attention_patterns import register_attention_pattern
from igpt_keras.network.attention_patterns._sparse_transformer import SparseTransformerPattern
from igpt_keras.network.rows import from_rows, sizes, to_rows
from igpt_keras.tensors import Tensor

if TYPE_CHECKING:
    from igpt_keras.network.config import ImageGPTConfig

SUMMARY_SHARE = 8
"""By default c = l / 8; the paper's c of 8, 16 and 32 are l / 16 … l / 4."""


@register_attention_pattern("fixed")
@dataclasses.dataclass(frozen=True)
class Fixed(SparseTransformerPattern):
    """A position sees its own row, or a few summary positions of every row.

    Head 0 sees the last c positions of every row, head 1 the c positions before them, and so
    on, as in the paper's code (`get_blocksparse_obj` of github.com/openai/sparse_attention);
    once a row has no further c positions, heads begin again at its end. A position that has no
    summary before it sees itself.

    Attributes:
        stride: l, the length of a row.
        summary: c.
        num_heads: H.
        layer: "local" (the row), "summary" or "merged", which sees the keys of both.
    """

    stride: int
    summary: int
    num_heads: int
    layer: str

    options: ClassVar[tuple[str, ...]] = ("stride", "summary", "attention_layers")
    layers: ClassVar[tuple[str, ...]] = ("local", "summary", "merged")
    default_layers: ClassVar[tuple[str, ...]] = ("local", "summary")

    @classmethod
    def for_block(cls, config: "ImageGPTConfig", block: int) -> "Fixed":
        stride = cls._stride_of(config)
        summary = config.summary or max(stride // SUMMARY_SHARE, 1)
        if summary > stride:
            raise InputError(
                f"summary must be at most stride={stride}, of which it is a part; got {summary}"
            )
        return cls(stride, summary, config.num_heads, cls._layer_of(config, block))

    @property
    def starts(self) -> np.ndarray:
        """The first summary position within a row, by head: int32 [H]."""
        blocks = np.arange(self.num_heads) % (self.stride // self.summary)
        return (self.stride - (blocks + 1) * self.summary).astype(np.int32)

    def visible(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        row = key_positions // self.stride == query_positions // self.stride
        if self.layer == "local":
            return row
        summary = self._is_summary(key_positions % self.stride)
        return summary if self.layer == "summary" else ops.logical_or(summary, row)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        length = sizes(query)[1]
        query, key, value = (to_rows(x, self.stride) for x in (query, key, value))
        if self.layer == "local":
            attended = _attend_in_rows(query, key, value, causal)
        else:
            parts = [self._own_row(query, key, value, causal)]
            rows = sizes(query)[1]
            if not isinstance(rows, int) or rows > 1:  # known only when the graph runs
                parts.append(self._summaries_of_other_rows(query, key, value, causal))
            attended = merge_parts(parts)
        return from_rows(attended, length)

    def keys_of(self, positions: Tensor, capacity: Any) -> Tensor:
        positions = positions[:, None]
        row = positions // self.stride
        own = row * self.stride + ops.arange(self.stride)
        if self.layer == "local":
            return own
        rows = ops.arange(-(-capacity // self.stride))
        places = self.starts[:, None] + np.arange(self.summary, dtype=np.int32)
        keys = rows[:, None] * self.stride + places[:, None, :]
        keys = ops.reshape(keys, (self.num_heads, 1, -1))
        if self.layer == "summary":
            others = ops.where(keys == positions, -1, keys)
            own = positions
        else:
            others = ops.where(keys // self.stride == row, -1, keys)
        own = ops.broadcast_to(own[None], (self.num_heads, *sizes(own)))
        return ops.concatenate([own, others], axis=-1)

    def num_products(self, length: int, causal: bool) -> int:
        if self.layer == "local":
            return self.stride
        return self.stride + (-(-length // self.stride) - causal) * self.summary

    def num_copies(self) -> int:
        return 0 if self.layer == "local" else 2

    def _is_summary(self, columns):
        """Whether positions in a row, [1, k], are summaries of a head: bool [H, 1, k]."""
        starts = self.starts[:, None, None]
        return ops.logical_and(columns >= starts, columns < starts + self.summary)

    def _own_row(self, query, key, value, causal: bool) -> Any:
        """Attention to the keys in a query's own row: [B, R, l, H, ...], see the module."""

        def visible(queries, keys):
            earlier = keys <= queries if causal else None
            if self.layer == "merged":
                return earlier
            summary = self._is_summary(keys)
            summary = summary if earlier is None else ops.logical_and(summary, earlier)
            return ops.logical_or(summary, keys == queries)

        query, key, value = (ops.swapaxes(x, 2, 3) for x in (query, key, value))
        part = attention_part(query, key, value, visible)
        return tuple(ops.swapaxes(x, 2, 3) for x in part)

    def _summaries_of_other_rows(self, query, key, value, causal: bool) -> Any:
        """Attention to summaries, without those of a query's own row."""
        stride, summary = self.stride, self.summary
        shape = batch, rows, _, heads, _ = sizes(query)
        # Nobody comes after the last row.
        num_rows = rows - 1 if causal and isinstance(rows, int) else rows
        query = ops.transpose(query, (0, 3, 1, 2, 4))
        query = ops.reshape(query, (batch, heads, rows * stride, shape[-1]))
        places = (self.starts + np.arange(summary)[:, None]) * self.num_heads
        places = (places + np.arange(self.num_heads)).reshape(-1)

        def summaries(x):
            x = ops.reshape(x[:, :num_rows], (batch, num_rows, stride * heads, shape[-1]))
            x = ops.reshape(
                ops.take(x, places, axis=2), (batch, num_rows * summary, heads, shape[-1])
            )
            return ops.transpose(x, (0, 2, 1, 3))

        def visible(queries, keys):
            row, row_of_key = queries // stride, keys // summary
            return row_of_key < row if causal else row_of_key != row

        def num_seen(stop):
            rows_before = (stop - 1) // stride if causal else num_rows
            return max(rows_before, 1) * summary

        part: Any = attention_part(query, summaries(key), summaries(value), visible, num_seen)
        in_rows = (ops.reshape(x, (batch, heads, rows, stride, x.shape[-1])) for x in part)
        return tuple(ops.transpose(x, (0, 2, 3, 1, 4)) for x in in_rows)


def _attend_in_rows(query, key, value, causal):
    """Attention of each row by itself; all [B, R, l, H, D]."""
    shape = batch, rows, *rest = sizes(query)
    query, key, value = (ops.reshape(x, (batch * rows, *rest)) for x in (query, key, value))
    return ops.reshape(dot_product_attention(query, key, value, causal), shape)
