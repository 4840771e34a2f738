"""Names of types for annotations of tensors."""

from typing import Any

Tensor = Any
"""A tensor of Keras' backend, or an array that a function takes in its place. No library declares a
type that fits all of them."""

Shape = tuple[Any, ...]
"""The sizes of a tensor's dimensions: integers, or None for a batch of any size."""
