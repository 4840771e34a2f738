"""Models saved on the way of a training."""

import os
import pathlib
from collections.abc import Collection
from typing import Any

from igpt_keras.models.task import Task
from igpt_keras.training.callbacks.callback import Callback, Logs

BEST = "best"


class Snapshots(Callback):
    """Saves the model after some epochs, and the best model so far.

    `DIRECTORY/step-00001000` is a model folder after one of `epochs`; the paper studies those
    after 1/16, 1/8, 1/4, 1/2 and all of the steps (section 4.2). `DIRECTORY/best` is the model
    with the lowest validation loss after any epoch.

    Args:
        directory: Folder of the model folders.
        epochs: Epochs, from 1, after which the model is saved.
        steps_per_epoch: Batches in an epoch.
        training: Content of each `training.json`, besides `step` and `validation_loss`.
        writes: Whether this process writes; False in workers that are not the chief.

    Attributes:
        saved: For each snapshot `step`, `validation_loss` (nats per pixel, None without
            validation) and `path`, relative to `directory`.
        best: The same for the best model; None without validation.
    """

    model: Task

    def __init__(
        self,
        directory: str | os.PathLike,
        epochs: Collection[int],
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
        """Returns which models were saved."""
        return {"saved": self.saved, "best": self.best}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned."""
        self.saved, self.best = state["saved"], state["best"]

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        step = (epoch + 1) * self.steps_per_epoch
        loss = (logs or {}).get("val_loss")
        measured = {"step": step, "validation_loss": loss}
        if epoch + 1 in self.epochs:
            self.saved = [*self.saved, self._save(f"step-{step:08d}", measured)]
        if loss is not None and (self.best is None or loss < self.best["validation_loss"]):
            self.best = self._save(BEST, measured)

    def _save(self, name: str, measured: dict[str, Any]) -> dict[str, Any]:
        if self.writes:
            # A process that was killed before its checkpoint may have saved it already.
            training = {**self.training, **measured}
            self.model.save_to_preset(self.directory / name, training=training, overwrite=True)
        return {**measured, "path": name}
