"""Sequences cut into rows, for attention patterns that compute by reshapes.

Shapes: B images, m positions, R rows of l positions, H heads of width D.
"""

from typing import Any

from keras import ops

from igpt_keras.tensors import Tensor


def sizes(x: Tensor) -> tuple[Any, ...]:
    """Returns the shape: integers, and int32 scalars of what only a running graph knows."""
    shape: Any = ops.shape(x)
    return shape


def to_rows(x: Tensor, stride: int) -> Tensor:
    """Returns [B, m, H, D] as [B, R, l, H, D], with zeros after the last position.

    Args:
        x: Queries, keys or values; m may be known only when the graph runs.
        stride: l.
    """
    batch, length, *rest = sizes(x)
    rows = -(-length // stride)
    missing = rows * stride - length
    if not isinstance(missing, int) or missing:
        x = ops.concatenate([x, ops.zeros((batch, missing, *rest), x.dtype)], axis=1)
    return ops.reshape(x, (batch, rows, stride, *rest))


def from_rows(x: Tensor, length: Any) -> Tensor:
    """Returns [B, R, l, H, D] as [B, m, H, D], m = `length`."""
    batch, rows, stride, *rest = sizes(x)
    x = ops.reshape(x, (batch, rows * stride, *rest))
    return x if isinstance(rows, int) and rows * stride == length else x[:, :length]


def shifted(rows: Tensor, by: int) -> Tensor:
    """Returns each row's neighbor: the previous row for `by` = 1, the next one for -1.

    Args:
        rows: [B, R, ...].
        by: 1 or -1.

    Returns:
        [B, R, ...], zeros where there is no such row.
    """
    batch, _, *rest = sizes(rows)
    none = ops.zeros((batch, 1, *rest), rows.dtype)
    extended: Any = ops.concatenate([none, rows] if by == 1 else [rows, none], axis=1)
    return extended[:, :-1] if by == 1 else extended[:, 1:]
