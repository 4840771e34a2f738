"""Models saved on the way of a training."""

import os
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from igpt_keras.models.task import Task
from igpt_keras.training.callbacks.callback import Callback, Logs

BEST = "best"


class Snapshots(Callback):
    """Saves the model after some steps, and the best model so far.

    `DIRECTORY/step-00001000` is a model folder after one of `steps`; the paper studies those
    after 1/16, 1/8, 1/4, 1/2 and all of the steps (section 4.2). `DIRECTORY/best` is the model
    with the lowest validation loss after any epoch.

    Args:
        directory: Folder of the model folders.
        steps: Steps after which the model is saved; an epoch ends at each.
        epoch_ends: The step after which each epoch ends.
        training: Content of each `training.json`, besides `step` and `validation_loss`.
        writes: Whether this process writes; False in workers that are not the chief.

    Attributes:
        saved: For each snapshot `step`, `validation_loss` (nats per token, None without
            validation) and `path`, relative to `directory`.
        best: The same for the best model; None without validation.
    """

    model: Task

    def __init__(
        self,
        directory: str | os.PathLike,
        steps: Collection[int],
        epoch_ends: Sequence[int],
        training: dict[str, Any],
        writes: bool = True,
    ):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.steps = steps
        self.epoch_ends = epoch_ends
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
        step = self.epoch_ends[epoch]
        loss = (logs or {}).get("val_loss")
        measured = {"step": step, "validation_loss": loss}
        if step in self.steps:
            self.saved = [*self.saved, self._save(f"step-{step:08d}", measured)]
        if loss is not None and (self.best is None or loss < self.best["validation_loss"]):
            self.best = self._save(BEST, measured)

    def _save(self, name: str, measured: dict[str, Any]) -> dict[str, Any]:
        if self.writes:
            # A process that was killed before its checkpoint may have saved it already.
            training = {**self.training, **measured}
            self.model.save_to_preset(self.directory / name, training=training, overwrite=True)
        return {**measured, "path": name}
