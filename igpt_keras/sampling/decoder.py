"""The cached decoder: logits at new positions from the keys and values of earlier ones.

Shapes: B sequences, p positions seen, k new ones, H heads of width D, V tokens in the
vocabulary. For each block the caches hold keys and values [B · H, capacity, D] in the compute
dtype; entries beyond the positions seen have no effect. They take 2 · L · capacity · d numbers
per sequence.
"""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalOperand=false

import math
from typing import Any

from keras import ops

from igpt_keras.network.attention_patterns import AttentionPattern
from igpt_keras.network.protocols import TokenModel
from igpt_keras.network.rows import sizes
from igpt_keras.sampling.backends import backend
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
    batch, length = sizes(tokens)
    # Shared by the blocks: fewer operations, less time to the first token.
    in_sequences = backend.as_sizes([batch, length, heads, width])
    in_cache = backend.as_sizes([batch * heads, length, width])

    def attend(query, key, value, pattern, cached):
        query, key, value = (ops.reshape(x, in_sequences) for x in (query, key, value))
        cached = tuple(ops.reshape(ops.transpose(x, (0, 2, 1, 3)), in_cache) for x in (key, value))
        if tokens.shape[1] == 0:  # known only to XLA, for which each prefix is another program
            return ops.reshape(value, (-1, heads, width)), cached
        attended = pattern.attend(query, key, value, causal=True)
        return ops.reshape(attended, (-1, heads, width)), cached

    h = ops.reshape(model.backbone.embedding(tokens, labels=labels), (-1, config.hidden_dim))
    h, caches = backend.run_blocks(blocks, h, [()] * len(blocks), attend)
    logits = model.token_head(model.backbone.final_norm(h))
    return ops.reshape(logits, (batch, length, config.vocabulary_size)), caches


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
    count = 1 if is_one else sizes(tokens)[1]
    positions = start + ops.arange(count)
    capacity = caches[0][0].shape[1] or sizes(caches[0][0])[1]
    blocks = model.backbone.blocks
    write = backend.writer(caches[0][0], start, count)
    readers = {
        pattern: _Reader(pattern, positions, capacity, heads)
        for pattern in dict.fromkeys(block.pattern for block in blocks)
    }

    if not is_one:
        # Transposing takes longer: oneDNN prepares a transposition anew each time.
        batch = sizes(tokens)[0]
        order_by_head = _exchanged(batch, count, heads)
        order_by_position = _exchanged(batch, heads, count)

    def by_head(x):
        """[B · k, H, D] to [B · H, k, D]."""
        if not is_one:
            x = backend.take(ops.reshape(x, (-1, width)), order_by_head)
        return ops.reshape(x, (-1, count, width))

    def by_position(x):
        """[B · H, k, D] to [B · k, H, D]."""
        if not is_one:
            x = backend.take(ops.reshape(x, (-1, width)), order_by_position)
        return ops.reshape(x, (-1, heads, width))

    def attend(query, key, value, pattern, cached):
        cached = tuple(
            write(cache, by_head(new)) for cache, new in zip(cached, (key, value), strict=True)
        )
        return by_position(readers[pattern].attend(by_head(query), *cached)), cached

    h = model.backbone.embedding.step(tokens, start, labels)
    h = ops.reshape(h, (-1, config.hidden_dim))
    h, updated = backend.run_blocks(blocks, h, caches, attend)
    logits = model.token_head(model.backbone.final_norm(h))
    return ops.reshape(logits, (-1, count, config.vocabulary_size)), updated


def _exchanged(batch, rows, columns):
    """The order of the rows [B · rows · columns] that exchanges the axes rows and columns."""
    order = ops.reshape(ops.arange(batch * rows * columns), (-1, rows, columns))
    return ops.reshape(ops.transpose(order, (0, 2, 1)), (-1,))


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
            hidden = pattern.hidden(positions, ops.arange(capacity), causal=True)
        else:
            hidden = (self.keys < 0) | (self.keys > positions[:, None])
            # Without an axis of heads, each head reads the same keys.
            self.keys = ops.clip(self.keys, 0, capacity - 1)
        self.mask: Any = ops.cast(hidden, "float32") * -1e30

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Returns attended values [B · H, k, D] of queries [B · H, k, D] and of the caches."""
        query = query * (1 / math.sqrt(query.shape[-1]))
        if self.keys is not None:
            # Each query has keys of its own.
            query, keys, values = query[:, :, None], self._read(keys), self._read(values)
        scores = ops.cast(backend.multiply(query, keys, adj_y=True), "float32")
        if self.keys is not None:
            scores = scores[:, :, 0]
        scores = self._masked(scores)
        # TensorFlow's own softmax is slower on arrays as small as this.
        weights = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))
        total = ops.sum(weights, axis=-1, keepdims=True)
        weights = ops.cast(weights, values.dtype)
        if self.keys is not None:
            attended = backend.multiply(weights[:, :, None], values)[:, :, 0]
        else:
            attended = backend.multiply(weights, values)
        return ops.cast(ops.cast(attended, "float32") / total, values.dtype)

    def _read(self, cache):
        """The keys of each query, from a cache [B · H, capacity, D]: [B · H, k, keys, D]."""
        if len(self.keys.shape) == 2:
            return backend.take(cache, self.keys, axis=1)
        width = cache.shape[-1]
        of_head = self.keys + self.capacity * ops.arange(self.heads)[:, None, None]
        by_sequence = ops.reshape(cache, (-1, self.heads * self.capacity, width))
        _, *shape = sizes(self.keys)
        read = backend.take(by_sequence, of_head, axis=1)
        return ops.reshape(read, (-1, *shape, width))

    def _masked(self, scores):
        """Scores [B · H, k, keys], so small for hidden keys that they have no weight."""
        if len(self.mask.shape) == 2:
            return scores + self.mask
        shape = sizes(scores)
        by_head = ops.reshape(scores, (-1, self.heads, *shape[1:]))
        return ops.reshape(by_head + self.mask, shape)


def cache_specs(model: TokenModel) -> Caches:
    """Returns shapes and dtypes of caches of any batch size and capacity."""
    shape = [None, None, model.config.head_dim]
    cache = backend.TensorSpec(shape, model.backbone.compute_dtype)
    return [(cache, cache)] * model.config.num_layers


def grow(caches: Caches, capacity: Tensor) -> Caches:
    """Returns the caches with room for `capacity` positions, an int32 scalar."""
    added = capacity - sizes(caches[0][0])[1]
    paddings = backend.as_sizes([[0, 0], [0, added], [0, 0]])
    return [(backend.pad(keys, paddings), backend.pad(values, paddings)) for keys, values in caches]


def repeat(caches: Caches, num_heads: int, count: int) -> Caches:
    """Returns the caches of each sequence `count` times, one after the other."""
    rows = ops.reshape(ops.arange(sizes(caches[0][0])[0]), (-1, num_heads))
    rows = ops.reshape(ops.repeat(rows, count, axis=0), (-1,))
    # To repeat each cache makes ten times the operations, which cost time at export.
    return [(backend.take(keys, rows), backend.take(values, rows)) for keys, values in caches]
