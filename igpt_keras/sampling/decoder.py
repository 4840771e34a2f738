"""The cached decoder: logits at new positions from the keys and values of earlier ones.

Shapes: B sequences, p positions seen, k new ones, H heads of width D, V tokens in the
vocabulary. For each block the caches hold keys and values [B · H, capacity, D] in the compute
dtype; entries beyond the positions seen have no effect. They take 2 · L · capacity · d numbers
per sequence.
"""

import functools
import math

import tensorflow as tf

from igpt_keras.network.attention import dot_product_attention, hidden_keys
from igpt_keras.network.protocols import TokenModel
from igpt_keras.tensors import Tensor

Caches = list[tuple[Tensor, Tensor]]


def prefill(model: TokenModel, tokens: Tensor) -> tuple[Tensor, Caches]:
    """Runs the first p positions in one pass.

    Args:
        model: An autoregressive model with a token head.
        tokens: int32 [B, p].

    Returns:
        Logits float32 [B, p, V], each for the token at its position given those before it, and
        caches of capacity p.
    """
    caches = []

    def attend(query, key, value, pattern):
        caches.append((_by_head(key), _by_head(value)))
        return dot_product_attention(query, key, value, causal=True, pattern=pattern)

    h = model.backbone.embedding(tokens)
    for block in model.backbone.blocks:
        h = block(h, attend=attend)
    return model.token_head(model.backbone.final_norm(h)), caches


def decode_step(
    model: TokenModel, tokens: Tensor, start: Tensor, caches: Caches
) -> tuple[Tensor, Caches]:
    """Runs the next k positions, given the caches of those before `start`.

    A smaller `start` than before goes back: it overwrites the caches from there on.

    Args:
        model: An autoregressive model with a token head.
        tokens: int32 [B, k], the tokens at positions `start` - 1 … `start` + k - 2; any token
            stands for position -1.
        start: int32 scalar, the first of the new positions.
        caches: Caches with a capacity of at least `start` + k.

    Returns:
        Logits float32 [B, k, V], each for the token at its position given those before it, and
        the caches with the new positions.
    """
    config = model.config
    heads, width = config.num_heads, config.head_dim
    is_one = tokens.shape[1] == 1
    count = 1 if is_one else tf.shape(tokens)[1]
    positions, cached = start + tf.range(count), tf.range(tf.shape(caches[0][0])[1])
    remaining, updated = iter(caches), []

    @functools.cache  # for the blocks that have the same pattern
    def score_mask(pattern):
        hidden: Tensor = hidden_keys(positions, cached, True, pattern)
        return tf.cast(hidden, tf.float32) * -1e30

    def by_head(x):
        """[B · k, H, D] to [B · H, k, D]."""
        if not is_one:
            x = tf.transpose(tf.reshape(x, [-1, count, heads, width]), [0, 2, 1, 3])
        return tf.reshape(x, [-1, count, width])

    def by_position(x):
        """[B · H, k, D] to [B · k, H, D]."""
        if not is_one:
            x = tf.transpose(tf.reshape(x, [-1, heads, count, width]), [0, 2, 1, 3])
        return tf.reshape(x, [-1, heads, width])

    def attend(query, key, value, pattern):
        keys, values = (
            _write(cache, start, by_head(new))
            for cache, new in zip(next(remaining), (key, value), strict=True)
        )
        updated.append((keys, values))
        scores = _multiply(by_head(query) * (1 / math.sqrt(width)), keys, adj_y=True)
        scores = tf.cast(scores, tf.float32) + score_mask(pattern)
        # TensorFlow's own softmax is slower on arrays as small as this.
        weights = tf.exp(scores - tf.reduce_max(scores, axis=-1, keepdims=True))
        attended = _multiply(tf.cast(weights, values.dtype), values)
        total = tf.reduce_sum(weights, axis=-1, keepdims=True)
        return by_position(tf.cast(tf.cast(attended, tf.float32) / total, values.dtype))

    h = tf.reshape(model.backbone.embedding.step(tokens, start), [-1, config.hidden_dim])
    for block in model.backbone.blocks:
        h = block(h, attend=attend)
    logits = model.token_head(model.backbone.final_norm(h))
    return tf.reshape(logits, [-1, count, config.vocabulary_size]), updated


def _write(cache, start, new):
    """Writes `new` [B · H, k, D] into a cache from position `start` on, in place if possible."""
    count = tf.shape(new)[1]
    if cache.shape[1] is None:
        return tf.raw_ops.TensorStridedSliceUpdate(
            input=cache,
            begin=tf.stack([0, start, 0]),
            end=tf.stack([0, start + count, 0]),
            strides=[1, 1, 1],
            value=new,
            begin_mask=0b101,
            end_mask=0b101,
        )
    # Only XLA has a fixed capacity. It does not take a dynamic start; elsewhere this would copy.
    rows, positions = tf.range(tf.shape(cache)[0]), start + tf.range(count)
    slots = tf.stack(tf.meshgrid(rows, positions, indexing="ij"), axis=-1)
    return tf.tensor_scatter_nd_update(cache, slots, new)


def _multiply(x, y, adj_y=False):
    """`tf.matmul`, but never that of oneDNN, which is slow for batched products with a vector."""
    if x.dtype == tf.float16:  # the only kernel for this dtype on a CPU
        return tf.matmul(x, y, transpose_b=adj_y)
    return tf.raw_ops.BatchMatMulV3(x=x, y=y, Tout=x.dtype, adj_y=adj_y)


def cache_specs(model: TokenModel) -> Caches:
    """Returns shapes and dtypes of caches of any batch size and capacity."""
    cache = tf.TensorSpec([None, None, model.config.head_dim], model.backbone.compute_dtype)
    return [(cache, cache)] * model.config.num_layers


def grow(caches: Caches, capacity: Tensor) -> Caches:
    """Returns the caches with room for `capacity` positions, an int32 scalar."""
    return tf.nest.map_structure(
        lambda cache: tf.pad(cache, [[0, 0], [0, capacity - tf.shape(cache)[1]], [0, 0]]), caches
    )


def repeat(caches: Caches, num_heads: int, count: int) -> Caches:
    """Returns the caches of each sequence `count` times, one after the other."""
    rows = tf.reshape(tf.range(tf.shape(caches[0][0])[0]), [-1, num_heads])
    rows = tf.reshape(tf.repeat(rows, count, axis=0), [-1])
    # `tf.repeat` itself makes ten times the operations, which cost time at export.
    return tf.nest.map_structure(lambda cache: tf.gather(cache, rows), caches)


def _by_head(x):
    """[B, m, H, D] to [B · H, m, D]."""
    shape = tf.shape(x)
    heads, width = x.shape[2:]
    if x.shape[1] != 1:
        x = tf.transpose(x, [0, 2, 1, 3])
    return tf.reshape(x, [shape[0] * heads, shape[1], width])
