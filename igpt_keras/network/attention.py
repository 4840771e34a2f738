"""Dot-product attention, with a block-wise kernel for TensorFlow.

Shapes: B images, n positions, H heads of width D.
"""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalOperand=false

import math
from typing import Any, NamedTuple

import keras
from keras import ops

from igpt_keras.network.attention_patterns import AttentionPattern
from igpt_keras.network.attention_patterns.dense import DENSE
from igpt_keras.network.custom_gradients import custom_gradients_in_graph
from igpt_keras.tensors import Tensor

# 128 and 256 are equally fast on two CPU cores, within measurement noise.
QUERY_BLOCK_SIZE = 128


def dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, pattern: AttentionPattern = DENSE
) -> Tensor:
    """Computes softmax(q kᵀ / √D) v.

    TensorFlow uses the block-wise kernel below: Keras' function passes over all n × n scores
    several times, including those that a causal mask hides. Other backends use Keras'
    function, which may have a fused kernel.

    Args:
        query: [B, n, H, D].
        key: [B, n, H, D].
        value: [B, n, H, D].
        causal: Whether a position attends only to itself and earlier ones.
        pattern: Which keys a query attends to, in addition to causality.

    Returns:
        [B, n, H, D].
    """
    if keras.backend.backend() != "tensorflow":
        positions = ops.arange(query.shape[1])
        hidden = hidden_keys(positions, positions, False, pattern)
        mask = None if hidden is None else ops.logical_not(hidden)[None, None]
        return ops.dot_product_attention(query, key, value, mask=mask, is_causal=causal)
    query = query * (1 / math.sqrt(query.shape[-1]))
    query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
    return ops.transpose(_blockwise_attention(query, key, value, causal, pattern), (0, 2, 1, 3))


def hidden_keys(
    query_positions: Tensor, key_positions: Tensor, causal: bool, pattern: AttentionPattern
) -> Tensor | None:
    """Returns which keys each query does not attend to.

    Args:
        query_positions: int32 [q].
        key_positions: int32 [k].
        causal: Whether a position attends only to itself and earlier ones.
        pattern: Which keys a query attends to, in addition to causality and to itself.

    Returns:
        bool [q, k], or None if no key is hidden.
    """
    queries, keys = query_positions[:, None], key_positions[None, :]
    hidden = keys > queries if causal else None
    visible = pattern.visible(queries, keys)
    if visible is None:
        return hidden
    outside = ops.logical_not(ops.logical_or(visible, keys == queries))
    return outside if hidden is None else ops.logical_or(hidden, outside)


class QueryBlock(NamedTuple):
    """The queries `start` … `stop` - 1, which attend to the first `num_keys` keys."""

    start: Any
    stop: Any
    num_keys: Any


def _query_blocks(length, causal: bool) -> list[QueryBlock]:
    if not isinstance(length, int):  # known only when the graph runs
        return [QueryBlock(0, length, length)]
    starts = range(0, max(length, 1), QUERY_BLOCK_SIZE)
    blocks = [(start, min(start + QUERY_BLOCK_SIZE, length)) for start in starts]
    return [QueryBlock(start, stop, stop if causal else length) for start, stop in blocks]


def _blockwise_attention(query, key, value, causal, pattern):
    """Attends block by block, with scaled queries; all [B, H, n, D].

    The scores of a block fit in the processor's cache, and a causal mask hides whole columns
    of them, which are not computed. A key that the pattern hides has a weight of 0, which is
    all that the gradient needs to know of it.
    """
    blocks = _query_blocks(ops.shape(query)[2], causal)

    @ops.custom_gradient
    def attend(query, key, value):
        weights = [_attention_weights(query, key, block, causal, pattern) for block in blocks]
        attended = ops.concatenate(
            [
                ops.matmul(w, value[:, :, : block.num_keys])
                for w, block in zip(weights, blocks, strict=True)
            ],
            axis=2,
        )

        def gradient(upstream):
            return _gradients(upstream, query, key, value, weights, attended, blocks, causal)

        return attended, gradient

    with custom_gradients_in_graph():
        return attend(query, key, value)


def _attention_weights(query, key, block: QueryBlock, causal, pattern):
    """The softmax over the keys of a block, computed in float32."""
    keys = key[:, :, : block.num_keys]
    scores = ops.matmul(query[:, :, block.start : block.stop], _transposed(keys))
    scores = ops.cast(scores, "float32")
    queries = ops.arange(block.start, block.stop)
    hidden = hidden_keys(queries, ops.arange(block.num_keys), causal, pattern)
    if hidden is not None:
        scores = scores - ops.cast(hidden, "float32") * 1e30
    return ops.cast(ops.softmax(scores), query.dtype)


def _gradients(upstream, query, key, value, weights, attended, blocks, causal):
    """The gradients of query, key and value, given that of the attended values.

    The gradient of a softmax needs Σ_j w_ij · ∂w_ij over the keys. It equals the product of
    row i of `attended` and its gradient, which has D terms instead of n.
    """
    products = ops.cast(upstream, "float32") * ops.cast(attended, "float32")
    row_sums = ops.sum(products, axis=-1, keepdims=True)
    d_query, d_key, d_value = [], [], []
    for block, w in zip(blocks, weights, strict=True):
        queries = slice(block.start, block.stop)
        d_attended = upstream[:, :, queries]
        d_weights = ops.matmul(d_attended, _transposed(value[:, :, : block.num_keys]))
        d_scores = ops.cast(d_weights, "float32") - row_sums[:, :, queries]
        d_scores = ops.cast(ops.cast(w, "float32") * d_scores, w.dtype)
        d_query.append(ops.matmul(d_scores, key[:, :, : block.num_keys]))
        d_key.append(ops.matmul(_transposed(d_scores), query[:, :, queries]))
        d_value.append(ops.matmul(_transposed(w), d_attended))
    return (
        ops.concatenate(d_query, axis=2),
        _sum_over_blocks(d_key, blocks, causal),
        _sum_over_blocks(d_value, blocks, causal),
    )


def _sum_over_blocks(gradients, blocks, causal):
    """Adds gradients [B, H, num_keys, D], of which each block has one for the keys it saw."""
    if not causal:
        return sum(gradients)
    return ops.concatenate(
        [
            sum(gradient[:, :, block.start : block.stop] for gradient in gradients[index:])
            for index, block in enumerate(blocks)
        ],
        axis=2,
    )


def _transposed(matrices):
    return ops.swapaxes(matrices, -1, -2)
