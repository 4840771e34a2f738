"""What a foreign file must satisfy before its tensors become a model's weights."""

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping

from igpt_keras.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]

# One file of a TensorFlow checkpoint; the group before the dot is the checkpoint's prefix.
CHECKPOINT_FILE = re.compile(r"(.+)\.(?:index|meta|data-\d{5}-of-\d{5})")


def check_tensors(source: str | os.PathLike, expected: Shapes, found: Shapes) -> None:
    """Raises `InputError` unless `found` holds the tensors of `expected` and no others.

    Args:
        source: the file, for the message.
        expected: shape of each tensor that the model has, by name.
        found: shape of each tensor in the file, by name.
    """
    for name, shape in expected.items():
        if name not in found:
            raise InputError(f"{source} lacks the tensor {name} (shape {list(shape)})")
        if tuple(found[name]) != tuple(shape):
            raise InputError(
                f"{source}: {name} has shape {list(found[name])}, expected {list(shape)}"
            )
    unknown = sorted(set(found) - set(expected))
    if unknown:
        raise InputError(f"{source} holds {unknown[0]}, for which Image GPT has no place")


def square_side(length: int, source: str | os.PathLike, what: str) -> int:
    """The side of a square image of `length` pixels.

    Raises:
        InputError: `length` is not a square; names `source` and `what` was measured.
    """
    side = math.isqrt(length)
    if side * side != length:
        raise InputError(
            f"{source}: {what} must be the square of an image size (1024 for 32×32), got {length}"
        )
    return side


@contextlib.contextmanager
def naming(source: str | os.PathLike) -> Iterator[None]:
    """Puts `source` in front of the message of an `InputError` raised in the block."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
