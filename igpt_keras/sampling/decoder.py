"""The cached decoder: logits at new positions from keys and values of those before.

Shapes: B sequences, p positions seen, k new ones, H heads of width D, V colors. The caches
hold, per block, keys and values [B · H, capacity, D], in the compute dtype; what lies beyond
the positions seen does not matter. They take 2 · L · capacity · d numbers a sequence.
"""

import math

import tensorflow as tf

from igpt_keras.network.attention import dot_product_attention

Caches = list[tuple[tf.Tensor, tf.Tensor]]


def prefill(model, tokens):
    """All of the first p positions in one pass.

    Args:
        model: an autoregressive `GenerativeModel` with token logits.
        tokens: int32 [B, p].

    Returns: logits float32 [B, p, V], each for the token at its position given those before,
    and caches of capacity p.
    """
    caches = []

    def attend(query, key, value):
        caches.append((_by_head(key), _by_head(value)))
        return dot_product_attention(query, key, value, causal=True)

    h = model.backbone.embedding(tokens)
    for block in model.backbone.blocks:
        h = block(h, attend=attend)
    return model.token_head(model.backbone.final_norm(h)), caches


def decode_step(model, tokens, start, caches: Caches):
    """The next k positions, given what the caches hold of those before `start`.

    To go back is to call with a smaller `start`: what the caches hold from there on is
    overwritten.

    Args:
        model: as for `prefill`.
        tokens: int32 [B, k], those at positions `start` - 1 … `start` + k - 2; at position -1
            it does not matter which.
        start: int32 scalar, the first of the new positions.
        caches: with a capacity of at least `start` + k.

    Returns: logits float32 [B, k, V], each for the token at its position given those before,
    and the caches with the new positions.
    """
    config = model.config
    heads, width = config.num_heads, config.head_dim
    is_one = tokens.shape[1] == 1
    count = 1 if is_one else tf.shape(tokens)[1]
    positions = start + tf.range(count)
    capacity = tf.shape(caches[0][0])[1]
    hidden = tf.cast(tf.range(capacity)[None] > positions[:, None], tf.float32) * -1e30
    remaining, updated = iter(caches), []

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

    def attend(query, key, value):
        keys, values = (
            _write(cache, start, by_head(new))
            for cache, new in zip(next(remaining), (key, value), strict=True)
        )
        updated.append((keys, values))
        scores = _multiply(by_head(query) * (1 / math.sqrt(width)), keys, adj_y=True)
        scores = tf.cast(scores, tf.float32) + hidden
        # TensorFlow's own softmax takes longer over so little.
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
    """A cache with `new`, [B · H, k, D], from position `start` on, in its own memory if it can."""
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
    # XLA, which alone has a fixed capacity, takes no such start; without it, this would copy.
    rows, positions = tf.range(tf.shape(cache)[0]), start + tf.range(count)
    slots = tf.stack(tf.meshgrid(rows, positions, indexing="ij"), axis=-1)
    return tf.tensor_scatter_nd_update(cache, slots, new)


def _multiply(x, y, adj_y=False):
    """`tf.matmul`, but never oneDNN's, which is slow for stacks of products with a vector."""
    if x.dtype == tf.float16:  # TensorFlow has no other for this dtype on a CPU
        return tf.matmul(x, y, transpose_b=adj_y)
    return tf.raw_ops.BatchMatMulV3(x=x, y=y, Tout=x.dtype, adj_y=adj_y)


def cache_specs(model) -> list[tuple[tf.TensorSpec, tf.TensorSpec]]:
    """Shapes and dtypes of caches whose batch size and capacity are not known."""
    cache = tf.TensorSpec([None, None, model.config.head_dim], model.compute_dtype)
    return [(cache, cache)] * model.config.num_layers


def grow(caches: Caches, capacity) -> Caches:
    """The caches with room for `capacity` positions, an int32 scalar."""
    return tf.nest.map_structure(
        lambda cache: tf.pad(cache, [[0, 0], [0, capacity - tf.shape(cache)[1]], [0, 0]]), caches
    )


def repeat(caches: Caches, num_heads: int, count: int) -> Caches:
    """The caches of every sequence `count` times, one after the other."""

    def repeat_one(cache):
        shape = tf.shape(cache)
        by_sequence = tf.reshape(cache, [-1, num_heads, shape[1], cache.shape[2]])
        return tf.reshape(tf.repeat(by_sequence, count, axis=0), [-1, shape[1], cache.shape[2]])

    return tf.nest.map_structure(repeat_one, caches)


def _by_head(x):
    """[B, m, H, D] to [B · H, m, D]."""
    shape = tf.shape(x)
    heads, width = x.shape[2:]
    if x.shape[1] != 1:
        x = tf.transpose(x, [0, 2, 1, 3])
    return tf.reshape(x, [shape[0] * heads, shape[1], width])
