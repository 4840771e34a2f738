"""A method of a model as a model of its own, for `predict` to compile."""

from typing import Any

import keras

from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.tensors import Tensor


class MethodModel(keras.Model):
    """Calls one method of a model, so that Keras compiles it on any backend.

    Args:
        model: The model.
        method: Name of its method, such as "per_image". It gets the inputs of `predict`.
        **arguments: Further arguments of the method.
    """

    def __init__(self, model: GenerativeModel, method: str, **arguments: Any):
        super().__init__(dtype=model.dtype_policy)
        self.model = model
        self.method = method
        self.arguments = arguments

    def call(self, inputs: Tensor) -> Any:
        return getattr(self.model, self.method)(inputs, **self.arguments)
