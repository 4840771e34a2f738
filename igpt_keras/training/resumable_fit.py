"""`fit` on batches that can start at any step, from the last checkpoint on."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager

Batches = Callable[[int], Any]
"""From a step to the endless batches that start there: a `tf.data.Dataset`, a
`keras.utils.PyDataset`, or the result of `igpt_keras.training.strategies.distribute`."""


class EpochHistory(keras.callbacks.History):
    """Keras' history, including the epochs before training was resumed."""

    def get_state(self) -> dict[str, Any]:
        """Returns the metrics of all epochs."""
        return {"history": self.history}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned."""
        self.history = state["history"]


def resumable_fit(
    model: keras.Model,
    batches: Batches,
    *,
    epochs: int,
    steps_per_epoch: int,
    checkpoints: CheckpointManager | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    should_stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> dict[str, list[float]]:
    """Fits a compiled model to the steps that remain after its last checkpoint.

    On one CPU device the weights end up bit for bit those of an uninterrupted training.

    Args:
        model: The compiled model.
        batches: Function from a step to the endless batches that start at it.
        epochs: Epochs in all, including those before the last checkpoint.
        steps_per_epoch: Batches in an epoch.
        checkpoints: Restores the last checkpoint and writes new ones; None starts at step 0
            and writes nothing.
        callbacks: Keras callbacks, among them those registered with `checkpoints`.
        should_stop: Whether a callback has already ended training before `epochs`.
        **settings: Further arguments of `fit`.

    Returns:
        The value of each metric after every epoch, from the first epoch on.

    Raises:
        InputError: The last checkpoint belongs to another model.
        Interrupted: `checkpoints.stop` was called; a checkpoint is on disk.
    """
    history = EpochHistory()
    callbacks = [*callbacks, history]
    step = 0
    if checkpoints is not None:
        checkpoints.register("history", history)
        callbacks.append(checkpoints)
        step = checkpoints.restore(model)
    for start, first_epoch, last_epoch, steps in _remaining_fits(step, steps_per_epoch, epochs):
        if should_stop():
            break
        model.fit(
            batches(start),
            initial_epoch=first_epoch,
            epochs=last_epoch,
            steps_per_epoch=steps,
            callbacks=callbacks,
            shuffle=False,
            **settings,
        )
    return history.history


def _remaining_fits(
    step: int, steps_per_epoch: int, epochs: int
) -> list[tuple[int, int, int, int]]:
    """The calls of `fit` after `step`: first step, first epoch, last epoch, steps per epoch.

    The rest of a started epoch is one call, all later epochs are another.
    """
    epoch, done = divmod(step, steps_per_epoch)
    fits = []
    if done:
        fits.append((step, epoch, epoch + 1, steps_per_epoch - done))
        epoch += 1
    if epoch < epochs:
        fits.append((epoch * steps_per_epoch, epoch, epochs, steps_per_epoch))
    return fits
