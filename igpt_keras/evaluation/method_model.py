"""A method of a model as a model of its own, for `predict` to compile."""

import keras

from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.tensors import Tensor


class MethodModel(keras.Model):
    """Calls one method of a model, so that Keras compiles it on any backend.

    Args:
        model: The model.
        method: Name of its method, such as "per_image". It gets the inputs of `predict`.
    """

    def __init__(self, model: GenerativeModel, method: str):
        super().__init__(dtype=model.dtype_policy)
        self.model = model
        self.method = method

    def call(self, inputs: Tensor) -> dict[str, Tensor]:
        return getattr(self.model, self.method)(inputs)
