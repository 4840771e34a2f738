"""Checks of values that are known only when a TensorFlow graph runs."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import keras

from igpt_keras.errors import InputError

# What TensorFlow makes of `require_below`.
FAILED = re.compile(r"assertion failed: \[(\w+ must .*, got)\] \[(.+?)\] \[(.+?)\]")


def require_below(values: Any, limit: int, message: str) -> Any:
    """Returns integers of a graph, which fails where they are not in 0…`limit` - 1.

    XLA drops the check. Eager tensors are checked as well.

    Args:
        values: A tensor.
        limit: Smallest integer that is too large.
        message: What the values are and must be, such as "tokens must lie in 0…7".
    """
    import tensorflow as tf

    low, high = tf.reduce_min(values), tf.reduce_max(values)
    # The least and the greatest of no values are out of order.
    fits = (low > high) | ((low >= 0) & (tf.cast(high, tf.int64) < limit))
    with tf.control_dependencies([tf.debugging.Assert(fits, [f"{message}, got", low, high])]):
        return tf.identity(values)


@contextlib.contextmanager
def reported_as_input_errors() -> Iterator[None]:
    """Raises `InputError` for a check of `require_below` that fails in the block."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        failed = FAILED.search(error.message)
        if failed is None:
            raise
        message, low, high = failed.groups()
        raise InputError(f"{message} {low}…{high}") from None
