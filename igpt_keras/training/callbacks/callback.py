"""The base class of callbacks: Keras' own, with types."""

from typing import Any

import keras

Logs = dict[str, float] | None


class Callback(keras.callbacks.Callback):
    """Declares what `fit` sets before it calls a callback, which Keras declares as optional."""

    model: keras.Model
    params: dict[str, Any]
