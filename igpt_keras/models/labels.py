"""Checks of labels, the classes of images."""

from typing import Any

import keras
import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.models.graph_checks import require_below


def check_label_spec(y: Any, num_classes: int) -> None:
    """Raises `InputError` for labels of a shape or dtype that no class has.

    Args:
        y: An array, tensor or `tf.TensorSpec`; None where there are no labels.
        num_classes: Number of classes.
    """
    wanted = f"labels must be integers in 0…{num_classes - 1} of shape [batch]"
    if y is None:
        raise InputError(f"{wanted}, got none; pass them as y, or in a dataset as (images, labels)")
    if not hasattr(y, "shape") or not hasattr(y, "dtype"):
        raise InputError(f"{wanted}, got {type(y).__name__}")
    shape, dtype = list(y.shape), getattr(y.dtype, "name", str(y.dtype))
    if len(shape) == 2 and shape[1] == num_classes:
        raise InputError(f"{wanted}, got {shape}; one-hot labels become it by .argmax(axis=1)")
    if len(shape) > 2 or (len(shape) == 2 and shape[1] not in (1, None)) or not shape:
        raise InputError(f"{wanted}, got shape {shape}")
    if "int" not in dtype and "float" not in dtype:
        hint = "np.unique(labels, return_inverse=True)[1] numbers names"
        raise InputError(f"{wanted}, got {dtype}; {hint}")


def check_label_values(labels: np.ndarray, num_classes: int) -> None:
    """Raises `InputError` for labels that are no classes."""
    if not labels.size:
        return
    low, high = labels.min(), labels.max()
    if not (low >= 0 and high < num_classes and (labels == np.floor(labels)).all()):
        raise InputError(f"{_label_range(num_classes)}, got {low}…{high}")


def require_label_range(labels: Any, num_classes: int) -> Any:
    """Returns labels; a TensorFlow graph of them fails at one that is no class."""
    if keras.backend.backend() != "tensorflow" or not keras.ops.is_tensor(labels):
        return labels
    return require_below(labels, num_classes, _label_range(num_classes))


def _label_range(num_classes):
    return f"labels must be integers in 0…{num_classes - 1} (num_classes={num_classes})"
