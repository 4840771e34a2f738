"""Dot-product attention, with a block-wise kernel for TensorFlow.

Shapes: B images, n positions, H heads of width D.
"""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalOperand=false

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from igpt_keras.network.custom_gradients import computed_after, custom_gradients_in_graph
from igpt_keras.tensors import Tensor

# 128 and 256 are equally fast on two CPU cores, within measurement noise.
QUERY_BLOCK_SIZE = 128
# Subtracted from the scores of hidden keys.
HIDDEN = 1e30

Visible = Callable[[Tensor, Tensor], Tensor | None]
"""Maps indices of queries, int32 [q, 1], and of keys, [1, k], to which keys each query attends
to: bool that can be broadcast to the scores [..., q, k], or None for all keys."""


def dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, visible: Visible | None = None
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
        visible: Which keys a query attends to, in addition to causality.

    Returns:
        [B, n, H, D].
    """
    if keras.backend.backend() != "tensorflow":
        positions = ops.arange(query.shape[1])
        hidden = hidden_keys(positions, positions, False, visible)
        mask = None if hidden is None else ops.logical_not(hidden)
        if mask is not None:
            mask = ops.reshape(mask, (1, -1, *mask.shape[-2:]))
        return ops.dot_product_attention(query, key, value, mask=mask, is_causal=causal)
    query = query * (1 / math.sqrt(query.shape[-1]))
    query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
    length = ops.shape(query)[2]
    blocks = query_blocks(length, (lambda stop: stop) if causal else (lambda stop: length))
    attended, _ = _blockwise_attention(
        query, key, value, blocks, causal, visible, positions_first=True
    )
    return attended


def attention_part(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Visible,
    num_seen: Callable[[int], int] | None = None,
    with_log_totals: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Attends to some of the keys; `merge_parts` makes one result of several such parts.

    Args:
        query: [..., q, D].
        key: [..., k, D].
        value: [..., k, D].
        visible: Which keys a query attends to. A query may have none.
        num_seen: Maps the number of queries 1…q in a first part of them to that of the first
            keys that they see; keys beyond these are not computed for them. None for all.
        with_log_totals: Whether the second result is needed.

    Returns:
        Attended values [..., q, D], and the logarithm of Σ exp(score) over the keys of each
        query, float32 [..., q, 1], or None.
    """
    query = query * (1 / math.sqrt(query.shape[-1]))
    num_keys = ops.shape(key)[-2]
    if keras.backend.backend() != "tensorflow":
        block = QueryBlock(0, query.shape[-2], num_keys)
        weights, log_totals = _attention_weights(query, key, block, False, visible, with_log_totals)
        return ops.matmul(weights, value), log_totals
    blocks = query_blocks(ops.shape(query)[-2], num_seen or (lambda stop: num_keys), num_keys)
    return _blockwise_attention(
        query, key, value, blocks, False, visible, with_log_totals=with_log_totals
    )


def merge_parts(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns attention to the keys of all parts, which have no key in common.

    Args:
        parts: As `attention_part` returns them, of one shape. No query lacks keys in all parts.

    Returns:
        [..., D] in the dtype of the parts.
    """
    attended, log_totals = zip(*parts, strict=True)
    if len(parts) == 1:
        return attended[0]
    stacked = ops.stack(log_totals)
    # oneDNN's softmax, which TensorFlow calls on some CPUs, takes at most five dimensions.
    flat = ops.softmax(ops.reshape(stacked, (len(parts), -1)), axis=0)
    shares: Any = ops.unstack(ops.reshape(flat, ops.shape(stacked)), len(parts))
    merged = sum(ops.cast(x, "float32") * w for x, w in zip(attended, shares, strict=True))
    return ops.cast(merged, attended[0].dtype)


def hidden_keys(
    query_positions: Tensor, key_positions: Tensor, causal: bool, visible: Visible | None
) -> Tensor | None:
    """Returns which keys each query does not attend to.

    Args:
        query_positions: int32 [q].
        key_positions: int32 [k].
        causal: Whether a position attends only to itself and earlier ones.
        visible: Which keys a query attends to, in addition to causality.

    Returns:
        bool, broadcastable to [..., q, k], or None if no key is hidden.
    """
    queries, keys = query_positions[:, None], key_positions[None, :]
    hidden = keys > queries if causal else None
    seen = None if visible is None else visible(queries, keys)
    if seen is None:
        return hidden
    unseen = ops.logical_not(seen)
    return unseen if hidden is None else ops.logical_or(hidden, unseen)


class QueryBlock(NamedTuple):
    """The queries `start` … `stop` - 1, which attend to the first `num_keys` keys."""

    start: Any
    stop: Any
    num_keys: Any

    @property
    def is_dynamic(self) -> bool:
        """Whether only a running graph knows the limits; the block is all queries and all keys."""
        return not isinstance(self.stop, int)


def query_blocks(
    length: Any, num_seen: Callable[[Any], Any], num_keys: Any = None
) -> list[QueryBlock]:
    """Cuts queries into blocks.

    Args:
        length: Number of queries.
        num_seen: Maps a block's `stop` to its `num_keys`, which never get fewer.
        num_keys: Number of all keys; None for `length`.
    """
    if not isinstance(length, int):  # known only when the graph runs
        return [QueryBlock(0, length, length if num_keys is None else num_keys)]
    starts = range(0, max(length, 1), QUERY_BLOCK_SIZE)
    stops = [min(start + QUERY_BLOCK_SIZE, length) for start in starts]
    return [QueryBlock(*each, num_seen(each[1])) for each in zip(starts, stops, strict=True)]


def _blockwise_attention(
    query, key, value, blocks, causal, visible, with_log_totals=False, positions_first=False
):
    """Attends block by block, with scaled queries; all [..., n, D].

    With `positions_first`, inputs are [B, H, n, D] and attended values [B, n, H, D], as the
    layer after attention takes and keeps them.

    The scores of a block fit in the processor's cache, and a causal mask hides whole columns
    of them, which are not computed. The last block, the largest, comes first: the memory that
    it frees holds the others. The gradient computes the weights again, block by block, because
    to keep them takes n² / 2 numbers a head. A key that is hidden has a weight of 0, which is
    all that the gradient needs to know of it.
    """
    if blocks[0].is_dynamic:
        # Nothing to leave out, and TensorFlow's own gradient needs no more operations in a graph.
        weights, log_totals = _attention_weights(
            query, key, blocks[0], causal, visible, with_log_totals
        )
        attended = ops.matmul(weights, value)
        return (ops.swapaxes(attended, 1, 2) if positions_first else attended), log_totals

    def weights_of(block, query, key, with_log_totals=False):
        return _attention_weights(query, key, block, causal, visible, with_log_totals)

    @ops.custom_gradient
    def attend(query, key, value):
        attended, log_totals = [], []
        for block in reversed(blocks):
            with computed_after(attended[-1:]):
                queries, keys, values = _inputs_of(block, query, key, value)
                weights, totals = weights_of(block, queries, keys, with_log_totals)
                attended.append(ops.matmul(weights, values))
                log_totals.append(totals)
        attended = _joined(attended[::-1])
        if positions_first:
            attended = ops.swapaxes(attended, 1, 2)

        def gradient(upstream, of_log_totals=None):
            # The gradient of a softmax needs Σ_j w_ij · ∂w_ij over the keys. It equals the
            # product of row i of `attended` and its gradient, which has D terms instead of n.
            products = ops.cast(upstream, "float32") * ops.cast(attended, "float32")
            row_sums = ops.sum(products, axis=-1, keepdims=True)
            if positions_first:
                upstream, row_sums = (ops.swapaxes(x, 1, 2) for x in (upstream, row_sums))
            if of_log_totals is not None:
                # Its gradient to a score is the weight.
                row_sums = row_sums - of_log_totals
            return _gradients(upstream, query, key, value, weights_of, row_sums, blocks)

        if not with_log_totals:
            return attended, gradient
        return (attended, _joined(log_totals[::-1])), gradient

    with custom_gradients_in_graph():
        result = attend(query, key, value)
    return result if with_log_totals else (result, None)


def _inputs_of(block: QueryBlock, query, key, value):
    """The queries of a block, and the keys and values that they see."""
    return (
        query[..., block.start : block.stop, :],
        key[..., : block.num_keys, :],
        value[..., : block.num_keys, :],
    )


def _joined(parts):
    return ops.concatenate(parts, axis=-2) if len(parts) > 1 else parts[0]


def _attention_weights(query, key, block: QueryBlock, causal, visible, with_log_totals):
    """The softmax over the keys of a block, computed in float32, and its logarithmic totals.

    Queries and keys are those of the block.
    """
    scores = ops.cast(ops.matmul(query, _transposed(key)), "float32")
    queries = ops.arange(block.start, block.stop)
    hidden = hidden_keys(queries, ops.arange(block.num_keys), causal, visible)
    if hidden is not None:
        scores = scores - ops.cast(hidden, "float32") * HIDDEN
    if not with_log_totals:
        return ops.cast(ops.softmax(scores), query.dtype), None
    # Subtracted and added again, it has no gradient, of which TensorFlow's kernel asks none.
    peaks = ops.max(scores, axis=-1, keepdims=True, initial=-HIDDEN)
    if keras.backend.backend() != "tensorflow":
        peaks = ops.stop_gradient(peaks)
    exponentials = ops.exp(scores - peaks)
    totals = ops.sum(exponentials, axis=-1, keepdims=True)
    return ops.cast(exponentials / totals, query.dtype), peaks + ops.log(totals)


def _gradients(upstream, query, key, value, weights_of, row_sums, blocks):
    """The gradients of query, key and value, given that of the attended values.

    It begins with the last block as well: the keys that only later blocks saw have their sums
    then, so that a sum is all that a block leaves behind.
    """
    d_query, d_key, d_value = [], _SumOverBlocks(), _SumOverBlocks()
    previous = [upstream]
    for block in reversed(blocks):
        with computed_after(previous):
            queries, keys, values = _inputs_of(block, query, key, value)
            rows = (..., slice(block.start, block.stop), slice(None))
            d_attended = upstream[rows]
            weights, _ = weights_of(block, queries, keys)
            d_weights = ops.matmul(d_attended, _transposed(values))
            d_scores = ops.cast(d_weights, "float32") - row_sums[rows]
            d_scores = ops.cast(ops.cast(weights, "float32") * d_scores, weights.dtype)
            previous = [
                ops.matmul(d_scores, keys),
                ops.matmul(_transposed(d_scores), queries),
                ops.matmul(_transposed(weights), d_attended),
            ]
            d_query.append(previous[0])
            d_key.add(previous[1], block.num_keys)
            d_value.add(previous[2], block.num_keys)
    return _joined(d_query[::-1]), d_key.result(), d_value.result()


class _SumOverBlocks:
    """A sum of gradients [..., num_keys, D] for the keys that a block saw, from the last block."""

    def __init__(self):
        self._sum, self._num_keys, self._finished = None, None, []

    def add(self, gradient, num_keys):
        if self._sum is not None and num_keys != self._num_keys:
            self._finished.append(self._sum[..., num_keys:, :])
            self._sum = self._sum[..., :num_keys, :]
        self._sum = gradient if self._sum is None else self._sum + gradient
        self._num_keys = num_keys

    def result(self):
        return _joined([self._sum, *self._finished[::-1]])


def _transposed(matrices):
    return ops.swapaxes(matrices, -1, -2)
