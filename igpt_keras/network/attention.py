"""Dot-product attention with a block-wise kernel for TensorFlow.

Shapes: B images, n positions, H heads of width D.
"""

import math

import keras
from keras import ops

# On two CPU cores 128 and 256 took equally long, within what such a measurement tells.
QUERY_BLOCK_SIZE = 128


def dot_product_attention(query, key, value, causal):
    """Attended values [B, n, H, D] of queries, keys and values of that shape.

    Other backends may have a fused kernel. Keras' function for TensorFlow has not: it goes over
    all n × n scores many times, also over those that a causal mask hides.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.dot_product_attention(query, key, value, is_causal=causal)
    query = query * (1 / math.sqrt(query.shape[-1]))
    query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
    return ops.transpose(_attention_by_blocks(query, key, value, causal), (0, 2, 1, 3))


def _attention_by_blocks(query, key, value, causal):
    """Attended values [B, H, n, D] of scaled queries, keys and values of that shape.

    Takes a block of queries at a time, whose scores may stay in the processor's cache; if
    causal, only the keys up to the block's end.

    The gradient is written out, as that of `softmax` would go over all scores twice more: here
    Σ_j weight_ij · gradient_ij over the keys is the product of row i of `attended` and of its
    gradient, which is D numbers long.
    """
    length = ops.shape(query)[2]
    if isinstance(length, int):
        starts = range(0, max(length, 1), QUERY_BLOCK_SIZE)
        blocks = [(start, min(start + QUERY_BLOCK_SIZE, length)) for start in starts]
    else:  # known only when the graph runs
        blocks = [(0, length)]

    @ops.custom_gradient
    def attend(query, key, value):
        weights = []
        for start, stop in blocks:
            seen = stop if causal else length
            scores = ops.matmul(query[:, :, start:stop], _transposed(key[:, :, :seen]))
            scores = ops.cast(scores, "float32")
            if causal:
                hidden = ops.arange(seen)[None, :] > ops.arange(start, stop)[:, None]
                scores = scores - 1e30 * ops.cast(hidden, "float32")
            weights.append(ops.cast(ops.softmax(scores), value.dtype))
        attended = ops.concatenate(
            [ops.matmul(w, value[:, :, : w.shape[-1]]) for w in weights], axis=2
        )

        def gradient(upstream):
            products = ops.cast(upstream, "float32") * ops.cast(attended, "float32")
            means = ops.sum(products, axis=-1, keepdims=True)
            of_query, of_key, of_value = [], [], []
            for (start, stop), w in zip(blocks, weights, strict=True):
                seen = w.shape[-1]
                here = upstream[:, :, start:stop]
                of_weights = ops.matmul(here, _transposed(value[:, :, :seen]))
                of_scores = ops.cast(of_weights, "float32") - means[:, :, start:stop]
                of_scores = ops.cast(ops.cast(w, "float32") * of_scores, w.dtype)
                of_query.append(ops.matmul(of_scores, key[:, :, :seen]))
                of_key.append(ops.matmul(_transposed(of_scores), query[:, :, start:stop]))
                of_value.append(ops.matmul(_transposed(w), here))
            return ops.concatenate(of_query, axis=2), summed(of_key), summed(of_value)

        return attended, gradient

    def summed(parts):
        """The sum over the blocks, each of which has a part for the keys that it saw."""
        if not causal:
            return sum(parts)
        return ops.concatenate(
            [
                sum(part[:, :, start:stop] for part in parts[index:])
                for index, (start, stop) in enumerate(blocks)
            ],
            axis=2,
        )

    return attend(query, key, value)


def _transposed(matrices):
    return ops.swapaxes(matrices, -1, -2)
