"""Sampling's needs of JAX; `igpt_keras.sampling.backends` lists them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from igpt_keras.sampling.backends import philox
from igpt_keras.tensors import Tensor

ALWAYS_XLA = True
TensorSpec = keras.KerasTensor


def compile_function(
    function: Callable,
    signature: list,
    variables: Callable[[], list],
    *,
    static: Sequence[int] = (),
    donated: Sequence[int] = (),
    jit_compile: bool = True,
) -> Callable:
    """Returns a function that XLA compiles for each of the shapes that it is called with.

    Args:
        function: Takes structures of tensors and returns one.
        signature: Not needed.
        variables: Returns the Keras variables that the function reads. What they hold at a call
            is an argument of the compiled function; any others would be constants.
        static: The numbers of arguments that are integers, for each of which XLA compiles.
        donated: The numbers of arguments whose memory the result may take.
        jit_compile: Not needed.
    """
    del signature, jit_compile

    def with_values(values, *arguments):
        with keras.StatelessScope(state_mapping=zip(variables(), values, strict=True)):
            return function(*arguments)

    compiled = jax.jit(
        with_values,
        static_argnums=tuple(number + 1 for number in static),
        donate_argnums=tuple(number + 1 for number in donated),
    )
    return lambda *arguments: compiled([each.value for each in variables()], *arguments)


def as_seeds(seeds: np.ndarray) -> np.ndarray:
    """Returns seeds int64 [B] as uint32 [B, 2], low word first: JAX has no int64 by default."""
    return np.ascontiguousarray(seeds, "<i8").view("<u4").reshape(-1, 2)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def random_bits(
    seeds: Tensor, first_row: Tensor, num_rows: int, row_length: int, vocabulary_size: int
) -> Tensor:
    """Returns the random bits that TensorFlow's generator gives, see `on_tensorflow`.

    Args:
        seeds: uint32 [B, 2], from `as_seeds`.
        first_row: int32 scalar, the first of the rows.
        num_rows: The number of rows.
        row_length: R.
        vocabulary_size: V.

    Returns:
        uint32 [num_rows, B, R, V].
    """
    rows = (first_row + jnp.arange(num_rows)).astype(jnp.uint32)
    low, high = jnp.broadcast_arrays(seeds[None, :, 0], seeds[None, :, 1])
    bits = philox.random_bits((low, high, rows[:, None]), row_length * vocabulary_size)
    return bits.reshape(num_rows, -1, row_length, vocabulary_size)


def while_loop(
    condition: Callable[[Any], Tensor], body: Callable[[Any], Any], state: Any, shapes: Any = None
) -> Any:
    """Repeats `body` as long as `condition` holds; both take a structure of tensors.

    Args:
        condition: Returns a bool scalar.
        body: Returns the next structure.
        state: The first structure.
        shapes: Not needed: XLA has the same shapes in all iterations.
    """
    del shapes
    return jax.lax.while_loop(condition, body, state)


def run_blocks(
    blocks: Sequence[Any], h: Tensor, caches: Sequence[Any], attend: Callable
) -> tuple[Tensor, list[Any]]:
    """Runs blocks one after the other, as `igpt_keras.sampling.block_functions` does."""
    updated = []
    for block, cached in zip(blocks, caches, strict=True):

        def attend_and_update(query, key, value, pattern, cached=cached):
            attended, new = attend(query, key, value, pattern, cached)
            updated.append(new)
            return attended

        h = block(h, attend=attend_and_update)
    return h, updated


def writer(cache: Tensor, start: Tensor, count: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns a function that writes `count` positions from `start` on into a cache like this one.

    It maps a cache [C, capacity, D] and new values [C, count, D] to the cache with them. In a
    compiled loop XLA writes in place.
    """
    del cache, count
    return lambda cache, new: jax.lax.dynamic_update_slice_in_dim(cache, new, start, axis=1)


def as_sizes(values: list) -> list:
    """Returns sizes as they are: integers."""
    return values


def pad(values: Tensor, paddings: list) -> Tensor:
    """Returns values with zeros before and after, as many as pairs of sizes say."""
    return jnp.pad(values, paddings)


def multiply(x: Tensor, y: Tensor, adj_y: bool = False) -> Tensor:
    """Returns the product [..., q, s] of [..., q, r] and [..., r, s], or [..., s, r] transposed."""
    return jnp.matmul(x, jnp.swapaxes(y, -1, -2) if adj_y else y)


def take(values: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    """Returns the entries of an axis at indices, none of which is negative."""
    return jnp.take(values, indices, axis=axis, mode="clip")


def pick(values: Tensor, indices: Tensor) -> Tensor:
    """Returns one entry of each row, [...], of values [..., V] at indices [...]."""
    return jnp.take_along_axis(values, indices[..., None], axis=-1, mode="clip")[..., 0]


def argmax(values: Tensor) -> Tensor:
    """Returns the index of the first of the largest values, int32 [...] of [..., V]."""
    return jnp.argmax(values, axis=-1).astype(jnp.int32)


def exclusive_cumsum(values: Tensor) -> Tensor:
    """Returns the sums of the values before each one in the last axis."""
    before = jnp.cumsum(values[..., :-1], axis=-1)
    return jnp.pad(before, [(0, 0)] * (values.ndim - 1) + [(1, 0)])
