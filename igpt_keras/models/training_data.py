"""Checks of labels, weights and amounts of data that models train on and are measured with."""

from typing import Any

import keras
import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.models.graph_checks import require_below
from igpt_keras.models.inputs import is_pipeline, to_tokens


def training_data(
    model: Any, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None
) -> tuple[Any, Any, Any]:
    """Returns inputs as tokens, labels and weights, after checking them.

    Args:
        model: The model that the data are for.
        x: As for `to_tokens`.
        y: Labels, integers [N], or None. A generative model ignores them.
        sample_weight: The weight of each image, [N] or [N, 1], or None.
        class_weight: The weight of the images of each label, or None.

    Returns:
        `x`, `y` and `sample_weight` for Keras' methods.

    Raises:
        InputError: Something does not fit the model, or there is no image.
    """
    x = to_tokens(model, x)
    if is_pipeline(x):
        spec = x.element_spec
        if class_weight is not None and not (isinstance(spec, tuple) and len(spec) > 1):
            raise _no_labels_to_weigh("call dataset.map(lambda image: (image, label)) before fit")
        return _with_checked_labels(model, x), y, sample_weight
    tokens = x["tokens"] if isinstance(x, dict) else x
    if not hasattr(tokens, "shape"):
        return x, y, sample_weight
    if tokens.shape[0] == 0:
        raise InputError(f"x must hold at least one image, got shape {list(tokens.shape)}")
    if y is not None and label_classes(model) is not None:
        y = np.asarray(y) if isinstance(y, list | tuple) else y
        check_label_spec(model, y)
        _check_label_values(model, np.asarray(y))
    if sample_weight is not None:
        sample_weight = _checked_weights(sample_weight, tokens.shape[0])
    if y is None and class_weight is not None:
        raise _no_labels_to_weigh("pass the label of each image as y")
    if y is None and sample_weight is not None:
        # Keras passes weights on only together with labels.
        y = np.zeros(tokens.shape[0], np.int32)
    return x, y, sample_weight


def label_classes(model: Any) -> int | None:
    """Returns the number of classes that labels must lie below; None where they may be others.

    Labels are unchecked where a user's loss or none takes the place of the classifier's own.
    """
    loss = model.loss if model.compiled else None
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return getattr(model, "num_classes", None)
    return None


def check_label_spec(model: Any, y: Any) -> None:
    """Raises `InputError` for labels whose shape or dtype a classifier cannot train on.

    Args:
        model: The model.
        y: An array, tensor or `tf.TensorSpec`; None where there are no labels.
    """
    num_classes = label_classes(model)
    if num_classes is None:
        return
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


def _check_label_values(model, labels):
    num_classes, low, high = label_classes(model), labels.min(), labels.max()
    if not (low >= 0 and high < num_classes and (labels == np.floor(labels)).all()):
        raise InputError(f"{_label_range(num_classes)}, got {low}…{high}")


def _with_checked_labels(model, dataset):
    """Returns a pipeline that fails at a label that is not one of the model's classes."""
    spec, num_classes = dataset.element_spec, label_classes(model)
    if num_classes is None:
        return dataset
    labels = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
    check_label_spec(model, labels)

    def check(x, y, *weights):
        return (x, require_below(y, num_classes, _label_range(num_classes)), *weights)

    return dataset.map(check)


def _label_range(num_classes):
    return f"labels must be integers in 0…{num_classes - 1} (num_classes={num_classes})"


def _checked_weights(sample_weight, num_images):
    weights = np.asarray(sample_weight)
    if weights.shape not in ((num_images,), (num_images, 1)):
        raise InputError(
            f"sample_weight must have shape [{num_images}], one weight for each image, "
            f"got {list(weights.shape)}"
        )
    if weights.dtype.kind not in "iufb":
        raise InputError(f"sample_weight must hold numbers, got {weights.dtype}")
    if not np.isfinite(weights).all():
        raise InputError("sample_weight must hold finite numbers, got NaN or infinity")
    return weights.reshape(-1).astype(np.float32)


def _no_labels_to_weigh(hint):
    return InputError(f"class_weight needs labels, got none; {hint}")
