"""The cached decoder: logits at new positions from the keys and values of earlier ones.

Shapes: B sequences, p positions seen, k new ones, H heads of width D, V tokens in the
vocabulary. For each block the caches hold keys and values [B · H, capacity, D] in the compute
dtype; entries beyond the positions seen have no effect. They take 2 · L · capacity · d numbers
per sequence.
"""

import math
from typing import Any

import tensorflow as tf

from igpt_keras.network.attention_patterns import AttentionPattern
from igpt_keras.network.protocols import TokenModel
from igpt_keras.sampling.block_functions import run_blocks
from igpt_keras.tensors import Tensor

Caches = list[tuple[Tensor, Tensor]]


def prefill(
    model: TokenModel, tokens: Tensor, labels: Tensor | None = None
) -> tuple[Tensor, Caches]:
    """Runs the first p positions in one pass.

    Args:
        model: An autoregressive model with a token head.
        tokens: int32 [B, p].
        labels: int32 [B], the classes of the sequences, -1 for none; None if none has one.

    Returns:
        Logits float32 [B, p, V], each for the token at its position given those before it, and
        caches of capacity p.
    """
    config, blocks = model.config, model.backbone.blocks
    heads, width = config.num_heads, config.head_dim
    batch, length = tf.unstack(tf.shape(tokens))
    # Shared by the blocks: fewer operations, less time to the first token.
    in_sequences = tf.stack([batch, length, heads, width])
    in_cache = tf.stack([batch * heads, length, width])

    def attend(query, key, value, pattern, cached):
        query, key, value = (tf.reshape(x, in_sequences) for x in (query, key, value))
        cached = tuple(tf.reshape(tf.transpose(x, [0, 2, 1, 3]), in_cache) for x in (key, value))
        attended = pattern.attend(query, key, value, causal=True)
        return tf.reshape(attended, [-1, heads, width]), cached

    h = tf.reshape(model.backbone.embedding(tokens, labels=labels), [-1, config.hidden_dim])
    h, caches = run_blocks(blocks, h, [()] * len(blocks), attend)
    logits = model.token_head(model.backbone.final_norm(h))
    return tf.reshape(logits, [batch, length, config.vocabulary_size]), caches


def decode_step(
    model: TokenModel,
    tokens: Tensor,
    start: Tensor,
    caches: Caches,
    labels: Tensor | None = None,
) -> tuple[Tensor, Caches]:
    """Runs the next k positions, given the caches of those before `start`.

    A smaller `start` than before goes back: it overwrites the caches from there on.

    Args:
        model: An autoregressive model with a token head.
        tokens: int32 [B, k], the tokens at positions `start` - 1 … `start` + k - 2; any token
            stands for position -1.
        start: int32 scalar, the first of the new positions.
        caches: Caches with a capacity of at least `start` + k.
        labels: As for `prefill`.

    Returns:
        Logits float32 [B, k, V], each for the token at its position given those before it, and
        the caches with the new positions.
    """
    config = model.config
    heads, width = config.num_heads, config.head_dim
    is_one = tokens.shape[1] == 1
    count = 1 if is_one else tf.shape(tokens)[1]
    positions = start + tf.range(count)
    capacity = caches[0][0].shape[1] or tf.shape(caches[0][0])[1]
    blocks = model.backbone.blocks
    write = _writer(caches[0][0], start, count)
    readers = {
        pattern: _Reader(pattern, positions, capacity, heads)
        for pattern in dict.fromkeys(block.pattern for block in blocks)
    }

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

    def attend(query, key, value, pattern, cached):
        cached = tuple(
            write(cache, by_head(new)) for cache, new in zip(cached, (key, value), strict=True)
        )
        return by_position(readers[pattern].attend(by_head(query), *cached)), cached

    h = model.backbone.embedding.step(tokens, start, labels)
    h = tf.reshape(h, [-1, config.hidden_dim])
    h, updated = run_blocks(blocks, h, caches, attend)
    logits = model.token_head(model.backbone.final_norm(h))
    return tf.reshape(logits, [-1, count, config.vocabulary_size]), updated


class _Reader:
    """Attends from some positions to the cached keys that a pattern needs, and reads no others.

    Args:
        pattern: The pattern of a causal model.
        positions: int32 [k], of the queries.
        capacity: Of the caches, an integer or an int32 scalar.
        heads: H.
    """

    def __init__(self, pattern: AttentionPattern, positions: Tensor, capacity: Any, heads: int):
        self.heads, self.capacity = heads, capacity
        self.keys: Any = pattern.keys_of(positions, capacity)
        if self.keys is None:
            hidden = pattern.hidden(positions, tf.range(capacity), causal=True)
        else:
            hidden = (self.keys < 0) | (self.keys > positions[:, None])
            # Without an axis of heads, each head reads the same keys.
            self.keys = tf.clip_by_value(self.keys, 0, capacity - 1)
        self.mask = tf.cast(hidden, tf.float32) * -1e30

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Returns attended values [B · H, k, D] of queries [B · H, k, D] and of the caches."""
        query = query * (1 / math.sqrt(query.shape[-1]))
        if self.keys is not None:
            # Each query has keys of its own.
            query, keys, values = query[:, :, None], self._read(keys), self._read(values)
        scores = tf.cast(_multiply(query, keys, adj_y=True), tf.float32)
        if self.keys is not None:
            scores = scores[:, :, 0]
        scores = self._masked(scores)
        # TensorFlow's own softmax is slower on arrays as small as this.
        weights = tf.exp(scores - tf.reduce_max(scores, axis=-1, keepdims=True))
        total = tf.reduce_sum(weights, axis=-1, keepdims=True)
        weights = tf.cast(weights, values.dtype)
        if self.keys is not None:
            attended = _multiply(weights[:, :, None], values)[:, :, 0]
        else:
            attended = _multiply(weights, values)
        return tf.cast(tf.cast(attended, tf.float32) / total, values.dtype)

    def _read(self, cache):
        """The keys of each query, from a cache [B · H, capacity, D]: [B · H, k, keys, D]."""
        if self.keys.shape.rank == 2:
            return tf.gather(cache, self.keys, axis=1)
        width = cache.shape[-1]
        of_head = self.keys + self.capacity * tf.range(self.heads)[:, None, None]
        by_sequence = tf.reshape(cache, [-1, self.heads * self.capacity, width])
        shape = tf.shape(self.keys)
        read = tf.gather(by_sequence, of_head, axis=1)
        return tf.reshape(read, [-1, shape[1], shape[2], width])

    def _masked(self, scores):
        """Scores [B · H, k, keys], so small for hidden keys that they have no weight."""
        if self.mask.shape.rank == 2:
            return scores + self.mask
        shape = tf.shape(scores)
        by_head = tf.reshape(scores, [-1, self.heads, shape[1], shape[2]])
        return tf.reshape(by_head + self.mask, shape)


def _writer(cache, start, count):
    """Returns a function that writes `count` positions from `start` on into a cache like this one.

    It maps a cache and new values [B · H, count, D] to the cache with them, in place if possible.
    """
    if cache.shape[1] is None:
        begin, end = tf.stack([0, start, 0]), tf.stack([0, start + count, 0])
        strides = tf.ones([3], tf.int32)
        return lambda cache, new: tf.raw_ops.TensorStridedSliceUpdate(
            input=cache,
            begin=begin,
            end=end,
            strides=strides,
            value=new,
            begin_mask=0b101,
            end_mask=0b101,
        )
    # Only XLA has a fixed capacity. It does not take a dynamic start; elsewhere this would copy.
    rows, positions = tf.range(tf.shape(cache)[0]), start + tf.range(count)
    slots = tf.stack(tf.meshgrid(rows, positions, indexing="ij"), axis=-1)
    return lambda cache, new: tf.tensor_scatter_nd_update(cache, slots, new)


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
    paddings = tf.stack([[0, 0], [0, capacity - tf.shape(caches[0][0])[1]], [0, 0]])
    return tf.nest.map_structure(lambda cache: tf.pad(cache, paddings), caches)


def repeat(caches: Caches, num_heads: int, count: int) -> Caches:
    """Returns the caches of each sequence `count` times, one after the other."""
    rows = tf.reshape(tf.range(tf.shape(caches[0][0])[0]), [-1, num_heads])
    rows = tf.reshape(tf.repeat(rows, count, axis=0), [-1])
    # `tf.repeat` itself makes ten times the operations, which cost time at export.
    return tf.nest.map_structure(lambda cache: tf.gather(cache, rows), caches)
