"""Sampling's needs of TensorFlow; `igpt_keras.sampling.backends` lists them.

The functions trace into any graph, those of exports included.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from igpt_keras.sampling.block_functions import run_blocks as run_blocks
from igpt_keras.tensors import Tensor

ALWAYS_XLA = False
TensorSpec = tf.TensorSpec


def compile_function(
    function: Callable,
    signature: list,
    variables: Callable[[], list],
    *,
    static: Sequence[int] = (),
    donated: Sequence[int] = (),
    jit_compile: bool = False,
) -> Callable:
    """Returns a graph of a function.

    Args:
        function: Takes structures of tensors and returns one.
        signature: Shapes and dtypes of the arguments. XLA compiles for those it is given.
        variables: Not needed: a graph reads the variables that the function reads.
        static: Not needed: with a signature, integers are tensors; for XLA they are constants.
        donated: Not needed: TensorFlow reuses what nobody refers to.
        jit_compile: Whether XLA compiles the graph.
    """
    del variables, static, donated
    return tf.function(
        function,
        input_signature=None if jit_compile else signature,
        jit_compile=jit_compile,
        autograph=False,
    )


def as_seeds(seeds: np.ndarray) -> np.ndarray:
    """Returns seeds int64 [B] as they are."""
    return seeds


def random_bits(
    seeds: Tensor, first_row: Tensor, num_rows: int | Tensor, row_length: int, vocabulary_size: int
) -> Tensor:
    """Returns random bits for some rows of tokens, by Philox (`philox.py` says which).

    Args:
        seeds: int64 [B].
        first_row: int32 scalar, the first of the rows.
        num_rows: The number of rows, an integer or int32 scalar.
        row_length: R.
        vocabulary_size: V.

    Returns:
        uint32 [num_rows, B, R, V].
    """
    rows = tf.cast(first_row + tf.range(num_rows), tf.int64)
    pairs = tf.stack([tf.tile(seeds, [num_rows]), tf.repeat(rows, tf.size(seeds))], axis=1)

    def bits_of_row(pair):
        shape = [row_length, vocabulary_size]
        return tf.random.stateless_uniform(
            shape,
            pair,
            minval=None,  # pyright: ignore[reportArgumentType]
            maxval=None,
            dtype=tf.uint32,
            alg="philox",
        )

    spec = tf.TensorSpec([row_length, vocabulary_size], tf.uint32)
    bits = tf.map_fn(bits_of_row, pairs, fn_output_signature=spec)
    return tf.reshape(bits, [num_rows, -1, row_length, vocabulary_size])


def while_loop(
    condition: Callable[[Any], Tensor], body: Callable[[Any], Any], state: Any, shapes: Any = None
) -> Any:
    """Repeats `body` as long as `condition` holds; both take a structure of tensors.

    Args:
        condition: Returns a bool scalar.
        body: Returns the next structure.
        state: The first structure.
        shapes: A structure of the shapes that all iterations have, where these differ.
    """
    (state,) = tf.while_loop(
        condition,
        lambda state: (body(state),),
        (state,),
        shape_invariants=None if shapes is None else (shapes,),
        parallel_iterations=1,
    )
    return state


def writer(cache: Tensor, start: Tensor, count: int | Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns a function that writes `count` positions from `start` on into a cache like this one.

    It maps a cache [C, capacity, D] and new values [C, count, D] to the cache with them, in place
    if possible.
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


def as_sizes(values: list) -> Tensor:
    """Returns sizes, integers or int32 scalars, as one tensor that operations can share."""
    return tf.stack(values)


def pad(values: Tensor, paddings: Tensor) -> Tensor:
    """Returns values with zeros before and after, as many as `as_sizes` of pairs says."""
    return tf.pad(values, paddings)


def multiply(x: Tensor, y: Tensor, adj_y: bool = False) -> Tensor:
    """Returns x y, by the faster of TensorFlow's two kernels for batched products on a CPU.

    That is Eigen's for a single row in float32. For more rows it is oneDNN's, by several times, and
    also in 16 bits, where Eigen converts one number after the other.

    Args:
        x: [..., q, r].
        y: [..., r, s], or [..., s, r] with `adj_y`.
        adj_y: Whether `y` is transposed.

    Returns:
        [..., q, s].
    """
    if x.shape[-2] != 1 or x.dtype in (tf.bfloat16, tf.float16):
        return tf.matmul(x, y, transpose_b=adj_y)
    return tf.raw_ops.BatchMatMulV3(x=x, y=y, Tout=x.dtype, adj_y=adj_y)


def take(values: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    """Returns the entries of an axis at indices, none of which is negative."""
    return tf.gather(values, indices, axis=axis)


def pick(values: Tensor, indices: Tensor) -> Tensor:
    """Returns one entry of each row, [...], of values [..., V] at indices [...]."""
    return tf.gather(values, indices, batch_dims=indices.shape.rank)


def argmax(values: Tensor) -> Tensor:
    """Returns the index of the first of the largest values, int32 [...] of [..., V]."""
    return tf.argmax(values, axis=-1, output_type=tf.int32)


def exclusive_cumsum(values: Tensor) -> Tensor:
    """Returns the sums of the values before each one in the last axis."""
    return tf.cumsum(values, axis=-1, exclusive=True)
