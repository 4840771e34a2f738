"""Model folders written while a model trains."""

import os
import pathlib
from typing import Any

import keras

from igpt_keras.saving import save

BEST = "best"


class Snapshots(keras.callbacks.Callback):
    """Saves the model at some ends of Keras' epochs, as `DIRECTORY/step-00001000`.

    The paper studies those after 1/16, 1/8, 1/4, 1/2 and all of the steps (section 4.2).
    `DIRECTORY/best` is the one of the lowest validation loss so far, at whichever epoch.

    Args:
        directory: of the model folders.
        epochs: after which epochs, counted from 1.
        steps_per_epoch: batches in an epoch.
        training: what `training.json` says besides `step` and `validation_loss`.
        writes: False in workers that are not the chief.

    Attributes:
        saved: for each one but the best `step`, `validation_loss` (nats per pixel, None
            without validation) and `path`, relative to `directory`.
        best: the same of the best; None without validation.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        epochs: set[int],
        steps_per_epoch: int,
        training: dict[str, Any],
        writes: bool = True,
    ):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.training = training
        self.writes = writes
        self.saved: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None

    def get_state(self) -> dict[str, Any]:
        return {"saved": self.saved, "best": self.best}

    def set_state(self, state: dict[str, Any]) -> None:
        self.saved, self.best = state["saved"], state["best"]

    def on_epoch_end(self, epoch, logs=None):
        step = (epoch + 1) * self.steps_per_epoch
        measured = {"step": step, "validation_loss": (logs or {}).get("val_loss")}
        if epoch + 1 in self.epochs:
            self.saved = [*self.saved, self._save(f"step-{step:08d}", measured)]
        loss = measured["validation_loss"]
        if loss is not None and (self.best is None or loss < self.best["validation_loss"]):
            self.best = self._save(BEST, measured)

    def _save(self, name, measured):
        if self.writes:
            # An earlier process may have saved it and have been killed before its state was.
            save(self.model, self.directory / name, {**self.training, **measured}, overwrite=True)
        return {**measured, "path": name}
