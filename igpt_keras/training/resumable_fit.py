"""`fit` on batches that begin at any step, from the last state on."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager


class EpochHistory(keras.callbacks.History):
    """Keras' history, with the epochs before training went on."""

    def get_state(self) -> dict[str, Any]:
        return {"history": self.history}

    def set_state(self, state: dict[str, Any]) -> None:
        self.history = state["history"]


def resumable_fit(
    model: keras.Model,
    batches: Callable[[int], Any],
    *,
    epochs: int,
    steps_per_epoch: int,
    checkpoints: CheckpointManager | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    ended: Callable[[], bool] = lambda: False,
    **settings,
) -> dict[str, list[float]]:
    """Fits the compiled `model` on what is left of `epochs` after its last state.

    Args:
        model: compiled.
        batches: from a step to the batches, without end, that come from that step on.
        epochs: of Keras, those that were done before included.
        steps_per_epoch: batches in an epoch.
        checkpoints: to go on from, and to write; None to begin at the first step.
        callbacks: of Keras; those that `checkpoints` knows among them.
        ended: whether training has ended before `epochs`, as far as a callback knows.
        **settings: the further arguments of `fit`.

    Returns: for each figure its value after every epoch, since the first.

    Raises:
        InputError: the checkpoints of another model.
        Interrupted: `checkpoints.stop` was called; a state is written.
    """
    history = EpochHistory()
    callbacks = [*callbacks, history]
    step = 0
    if checkpoints is not None:
        checkpoints.register("history", history)
        callbacks.append(checkpoints)
        step = checkpoints.restore(model)
    for start, first, last, count in _fits(step, steps_per_epoch, epochs):
        if ended():
            break
        model.fit(
            batches(start),
            initial_epoch=first,
            epochs=last,
            steps_per_epoch=count,
            callbacks=callbacks,
            shuffle=False,
            **settings,
        )
    return history.history


def _fits(step: int, steps_per_epoch: int, epochs: int) -> list[tuple[int, int, int, int]]:
    """(first step, first epoch, last epoch, steps an epoch) of what is left after `step`.

    The rest of an epoch that has begun is one `fit`, all later epochs another.
    """
    epoch, done = divmod(step, steps_per_epoch)
    fits = []
    if done:
        fits.append((step, epoch, epoch + 1, steps_per_epoch - done))
        epoch += 1
    if epoch < epochs:
        fits.append((epoch * steps_per_epoch, epoch, epochs, steps_per_epoch))
    return fits
