"""Batches that methods of probes train on."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager, stopped_by_signals
from igpt_keras.training.resumable_fit import resumable_fit


class Batches(keras.utils.PyDataset):
    """Endless batches of one size, in an order that changes with every epoch.

    Images that do not fill a batch are left out of an epoch, different ones in each.

    Args:
        read: Function from indices int [m] to the inputs of these images.
        labels: int [N].
        batch_size: Images in a batch; all of them where there are fewer.
        seed: Seed of the order.
        start: Number of batches to skip.
    """

    num_batches = None  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        read: Callable[[np.ndarray], Any],
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        start: int = 0,
    ):
        super().__init__()
        self.read = read
        self.labels = labels
        self.batch_size = min(batch_size, len(labels))
        self.seed = seed
        self.start = start
        self._epoch = -1
        self._order = np.empty(0, int)

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self.labels) // self.batch_size

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray]:
        epoch, batch = divmod(self.start + index, self.per_epoch)
        if epoch != self._epoch:
            # The order before goes first: memory holds one.
            self._order = np.empty(0, int)
            self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self.labels))
            self._epoch = epoch
        # Rows in the order of the file are read faster.
        rows = np.sort(self._order[batch * self.batch_size : (batch + 1) * self.batch_size])
        return self.read(rows), self.labels[rows]


def fit_batches(
    model: keras.Model,
    batches: Callable[..., Batches],
    epochs: int,
    checkpoints: CheckpointManager | None,
) -> None:
    """Trains a probe, from its last checkpoint on where there is one.

    Args:
        model: The probe, compiled.
        batches: Function from the number of batches to skip, `start`, to the others.
        epochs: Passes over the images.
        checkpoints: What to resume from and to write, or None.

    Raises:
        Interrupted: A signal stopped the training; a checkpoint is written.
    """
    with stopped_by_signals(checkpoints) if checkpoints else contextlib.nullcontext():
        resumable_fit(
            model,
            batches,
            epochs=epochs,
            steps_per_epoch=batches().per_epoch,
            checkpoints=checkpoints,
            verbose=0,
        )
