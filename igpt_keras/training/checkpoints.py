"""Model folders written while a model trains."""

import os
import pathlib
from typing import Any

import keras

from igpt_keras.folder import save


class Checkpoints(keras.callbacks.Callback):
    """Saves the model at some ends of Keras' epochs, as `DIRECTORY/step-00001000`.

    The paper studies those after 1/16, 1/8, 1/4, 1/2 and all of the steps (section 4.2).

    Args:
        directory: of the model folders.
        epochs: after which epochs, counted from 1.
        training: what `training.json` says besides `step` and `validation_loss`.

    Attributes:
        saved: for each one `step`, `validation_loss` (nats per pixel, None without
            validation) and `path`.
    """

    def __init__(self, directory: str | os.PathLike, epochs: set[int], training: dict[str, Any]):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.epochs = epochs
        self.training = training
        self.saved: list[dict[str, Any]] = []

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 not in self.epochs:
            return
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        measured = {"step": step, "validation_loss": (logs or {}).get("val_loss")}
        path = self.directory / f"step-{step:08d}"
        save(self.model, path, {**self.training, **measured})
        self.saved.append({**measured, "path": str(path)})
