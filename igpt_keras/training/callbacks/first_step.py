"""Tells that the first step of a training takes long, because it compiles."""

import contextlib

from igpt_keras.stages import stage
from igpt_keras.training.callbacks.callback import Callback, Logs


class FirstStep(Callback):
    """Reports the first step of a `fit` as a stage; see `igpt_keras.stages`."""

    def __init__(self):
        super().__init__()
        self._stack = contextlib.ExitStack()

    def on_train_begin(self, logs: Logs = None) -> None:
        self._stack.enter_context(stage("compiling the training step"))

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._stack.close()

    def on_train_end(self, logs: Logs = None) -> None:
        self._stack.close()
