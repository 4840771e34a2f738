"""A model in a file or folder of any format, and the checks of what it holds."""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras

from igpt_keras.errors import InputError, first_line

# One file of a TensorFlow checkpoint; the group before the dot is the checkpoint's prefix.
CHECKPOINT_FILE = re.compile(r"(.+)\.(?:index|meta|data-\d{5}-of-\d{5})")


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """What a model on disk is, before it is built.

    Attributes:
        source: Its path, for error messages.
        class_name: "ImageGPT" or "ImageGPTClassifier".
        settings: Keyword arguments of the class, `config` and `tokenizer` as objects.
        assign: Gives a model that was built with these settings the stored weights.
    """

    source: str | os.PathLike
    class_name: str
    settings: dict[str, Any]
    assign: Callable[[Any], None]

    def build(self, model_class: type, load_weights: bool = True, **overrides: Any) -> Any:
        """Returns the model.

        Args:
            model_class: The class that `class_name` names.
            load_weights: Whether it gets the stored weights; False leaves them random.
            **overrides: Keyword arguments that replace those in `settings`, such as `dtype`.

        Raises:
            InputError: The settings or the weights cannot be used, or the weights are quantized
                and `dtype` is another.
        """
        if load_weights and "dtype" in overrides and self._is_quantized:
            raise InputError(
                f"{self.source} holds quantized weights, whose dtype cannot change, "
                f"got dtype={overrides['dtype']!r}"
            )
        try:
            with naming(self.source):
                model = model_class(**{**self.settings, **overrides})
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            if overrides:
                # Raises InputError if the stored settings are to blame.
                self.build(model_class, load_weights=False)
                raise
            raise InputError(
                f"{self.source} does not describe a model: {first_line(error)}"
            ) from None
        if load_weights:
            self.assign(model)
        return model

    @property
    def _is_quantized(self) -> bool:
        return isinstance(self.settings.get("dtype"), keras.dtype_policies.DTypePolicyMap)


def check_tensors(
    source: str | os.PathLike,
    expected: Iterable[tuple[str, tuple[int, ...]]],
    found: Mapping[str, tuple[int, ...]],
) -> None:
    """Checks that a file holds the expected tensors and no others.

    Args:
        source: The file, for error messages.
        expected: Name and shape of each tensor of the model. The first that is missing ends
            the check, so that a wrong number of layers costs nothing.
        found: Shape of each tensor in the file, by name.

    Raises:
        InputError: A tensor is missing, superfluous, or has another shape.
    """
    unknown = set(found)
    for name, shape in expected:
        if name not in found:
            raise InputError(f"{source} lacks the tensor {name} (shape {list(shape)})")
        if tuple(found[name]) != tuple(shape):
            raise InputError(
                f"{source}: {name} has shape {list(found[name])}, expected {list(shape)}"
            )
        unknown.discard(name)
    if unknown:
        raise InputError(f"{source} holds the unexpected tensor {min(unknown)}")


def square_side(length: int, source: str | os.PathLike, what: str) -> int:
    """Returns the side of a square image of `length` pixels.

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
