"""Early stopping that survives an interrupted training."""

from typing import Any

import keras

from igpt_keras.training.callbacks.callback import Logs


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras' early stopping by validation accuracy, across several `fit` calls and processes.

    It keeps its state between calls of `fit` and never restores weights itself: the caller
    takes `best_weights` once training has ended.

    Args:
        patience: Epochs without a better validation accuracy after which training stops.
    """

    def __init__(self, patience: int):
        super().__init__("val_accuracy", mode="max", patience=patience, restore_best_weights=True)
        super().on_train_begin()

    @property
    def should_stop(self) -> bool:
        """Whether the last `patience` epochs brought no better accuracy."""
        return self.wait >= self.patience

    def on_train_begin(self, logs: Logs = None) -> None:
        """Does nothing: Keras would reset the state."""

    def on_train_end(self, logs: Logs = None) -> None:
        """Does nothing: Keras would restore the best weights, but training may continue."""

    def get_state(self) -> dict[str, Any]:
        """Returns the best score, its epoch and weights, and the epochs since."""
        weights = {f"weight-{i:05d}": value for i, value in enumerate(self.best_weights or [])}
        return {"best": self.best, "best_epoch": self.best_epoch, "wait": self.wait, **weights}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned."""
        state = dict(state)
        self.best, self.best_epoch = state.pop("best"), state.pop("best_epoch")
        self.wait = state.pop("wait")
        self.best_weights = [state[name] for name in sorted(state)] or None
