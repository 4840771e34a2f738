"""Checks of labels, weights and amounts of data that models train on and are measured with."""

from typing import Any

import keras
import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.models.inputs import is_pipeline, to_tokens
from igpt_keras.models.labels import check_label_spec, check_label_values, require_label_range


def training_data(
    model: Any,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    conditioned: bool = True,
) -> tuple[Any, Any, Any]:
    """Returns inputs as tokens, labels and weights, after checking them.

    Args:
        model: The model that the data are for.
        x: As for `to_tokens`.
        y: Labels, integers [N], or None. A generative model without `config.num_classes`
            ignores them.
        sample_weight: The weight of each image, [N] or [N, 1], or None.
        class_weight: The weight of the images of each label, or None.
        conditioned: Whether a model with `config.num_classes` needs labels, among its inputs or
            as `y`, which then become a part of the inputs.

    Returns:
        `x`, `y` and `sample_weight` for Keras' methods.

    Raises:
        InputError: Something does not fit the model, or there is no image.
    """
    x = to_tokens(model, x)
    conditioned = conditioned and model.config.num_classes is not None
    if is_pipeline(x):
        spec = x.element_spec
        if class_weight is not None and not (isinstance(spec, tuple) and len(spec) > 1):
            raise _no_labels_to_weigh("call dataset.map(lambda image: (image, label)) before fit")
        x = _with_labels_in_inputs(model, x) if conditioned else _with_checked_labels(model, x)
        return x, y, sample_weight
    tokens = x["tokens"] if isinstance(x, dict) else x
    if not hasattr(tokens, "shape"):
        return x, y, sample_weight
    if tokens.shape[0] == 0:
        raise InputError(f"x must hold at least one image, got shape {list(tokens.shape)}")
    if conditioned and not (isinstance(x, dict) and "labels" in x):
        y = _checked_labels(y, model.config.num_classes)
        x = to_tokens(model, _labeled(x, y))
    num_classes = label_classes(model)
    if y is not None and num_classes is not None:
        y = _checked_labels(y, num_classes)
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


def check_labels_of_loss(model: Any, y: Any) -> None:
    """Raises `InputError` for labels whose shape or dtype a classifier cannot train on.

    Args:
        model: The model.
        y: An array, tensor or `tf.TensorSpec`; None where there are no labels.
    """
    num_classes = label_classes(model)
    if num_classes is not None:
        check_label_spec(y, num_classes)


def _checked_labels(y, num_classes):
    y = np.asarray(y) if isinstance(y, list | tuple) else y
    check_label_spec(y, num_classes)
    check_label_values(np.asarray(y), num_classes)
    return y


def _with_checked_labels(model, dataset):
    """Returns a pipeline that fails at a label that is not one of the model's classes."""
    spec, num_classes = dataset.element_spec, label_classes(model)
    if num_classes is None:
        return dataset
    labels = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
    check_label_spec(labels, num_classes)

    def check(x, y, *weights):
        return (x, require_label_range(y, num_classes), *weights)

    return dataset.map(check)


def _with_labels_in_inputs(model, dataset):
    """Returns a pipeline whose inputs have labels, for a model that is conditioned on them."""
    spec = dataset.element_spec
    first = spec[0] if isinstance(spec, tuple) else spec
    if isinstance(first, dict) and "labels" in first:
        return dataset
    labels = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
    check_label_spec(labels, model.config.num_classes)

    def add(x, y, *weights):
        y = require_label_range(y, model.config.num_classes)
        return (_labeled(x, y), y, *weights)

    return dataset.map(add)


def _labeled(x, labels):
    """The inputs `x` with labels."""
    return {**(x if isinstance(x, dict) else {"tokens": x}), "labels": labels}


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
