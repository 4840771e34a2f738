"""Keras' methods of the models, from `fit` to `export`, for images as well as tokens."""

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import keras

from igpt_keras.models.graph_checks import reported_as_input_errors
from igpt_keras.models.inputs import require_known_tokens, to_tokens
from igpt_keras.models.training_data import training_data
from igpt_keras.network.config import ImageGPTConfig


def _keras_method(method: Callable) -> Callable:
    """Gives `method` the signature of that of Keras; data that fail in a graph are named."""

    @functools.wraps(getattr(keras.Model, method.__name__))
    def call(*args, **kwargs):
        with reported_as_input_errors():
            return method(*args, **kwargs)

    return call


class KerasMethods(keras.Model):
    """Methods of `keras.Model` that check what they are given and replace images by tokens.

    They take the arguments of Keras'. Inputs are images uint8 [B, R, R, 3], tokens int32
    [B, n], `{"tokens": tokens, "masked": masked}`, or a `tf.data.Dataset` of batches of these,
    alone or as `(inputs, labels)` or `(inputs, labels, sample_weight)`. A model with
    `config.num_classes` is conditioned on the labels; `predict` conditions only on those in
    `{"tokens": tokens, "labels": labels}`.

    `sample_weight` [B] and `class_weight` multiply the loss of each image, the generative loss
    as well; the sum is divided by the number of images, as Keras does. Metrics count each
    image once; Keras has `weighted_metrics` for others.

    They raise `InputError` where a shape, dtype, key, token, label or weight does not fit the
    model, and where there are no images.
    """

    config: ImageGPTConfig

    def __call__(self, inputs, *args, **kwargs):
        tokens = require_known_tokens(to_tokens(self, inputs), self.config)
        return super().__call__(tokens, *args, **kwargs)

    @_keras_method
    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        given = _by_name(super().fit, args, kwargs)
        validation_data = given.get("validation_data")
        if isinstance(validation_data, tuple | list):
            x, y, sample_weight, *_ = [*validation_data, None, None]
            given["validation_data"] = training_data(self, x, y, sample_weight)
        elif validation_data is not None:
            given["validation_data"], _, _ = training_data(self, validation_data)
        return super().fit(**_with_data(self, given))

    @_keras_method
    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        given = _by_name(super().evaluate, args, kwargs)
        if given.get("_use_cached_eval_dataset"):
            # `fit` has checked its validation data.
            return super().evaluate(**given)
        return super().evaluate(**_with_data(self, given))

    @_keras_method
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        given = _by_name(super().predict, args, kwargs)
        return super().predict(**_with_data(self, given, conditioned=False))

    @_keras_method
    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        given = _by_name(super().train_on_batch, args, kwargs)
        return super().train_on_batch(**_with_data(self, given))

    @_keras_method
    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        given = _by_name(super().test_on_batch, args, kwargs)
        return super().test_on_batch(**_with_data(self, given))

    @_keras_method
    def predict_on_batch(self, x: Any) -> Any:
        return super().predict_on_batch(to_tokens(self, x))

    @property
    def input_dtype(self) -> str:
        """The dtype of tokens, which Keras gives to the inputs of SavedModels."""
        return "int32"

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Writes a SavedModel from tokens, int32 [B, n], to the output of a call.

        `serving.export` writes one that takes image files and completes them.

        Args:
            filepath: The folder.
            format: As for `keras.Model.export`.
            verbose: As for `keras.Model.export`.
            input_signature: Other shapes and dtypes of the inputs, such as a fixed batch size.
            **kwargs: As for `keras.Model.export`.

        Example:
            ```python
            model.export("saved-model")
            logits = tf.saved_model.load("saved-model").serve(tokens)
            ```
        """
        if input_signature is None:
            shape = (None, self.config.sequence_length)
            input_signature = [keras.InputSpec(shape=shape, dtype="int32")]
        super().export(filepath, format, verbose, input_signature, **kwargs)


def _by_name(method: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns what `method` is given, by the names of its parameters."""
    given = inspect.signature(method).bind(*args, **kwargs).arguments
    return given | given.pop("kwargs", {})


def _with_data(model: Any, given: dict[str, Any], conditioned: bool = True) -> dict[str, Any]:
    """Returns the arguments of a method with its data checked and as tokens.

    `conditioned` is as for `training_data`.
    """
    x = given.pop("x", None)
    y, sample_weight = given.pop("y", None), given.pop("sample_weight", None)
    class_weight = given.get("class_weight")
    data = training_data(model, x, y, sample_weight, class_weight, conditioned)
    names = ("x", "y", "sample_weight")
    return given | {name: part for name, part in zip(names, data, strict=True) if part is not None}
