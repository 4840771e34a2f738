"""Names of types for annotations of tensors."""

from typing import Any

Tensor = Any
"""A tensor of Keras' backend or, in sampling and export, of TensorFlow; or an array that the
functions of these take in its place. Neither library declares a type that fits all of them."""

Shape = tuple[Any, ...]
"""The sizes of a tensor's dimensions: integers, or None for a batch of any size."""
