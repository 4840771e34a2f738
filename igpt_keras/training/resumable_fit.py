"""`fit` on batches that can start at any step, from the last checkpoint on."""

import bisect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from igpt_keras.errors import InputError
from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager
from igpt_keras.training.callbacks.first_step import FirstStep

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
    steps_per_epoch: int | Sequence[int],
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
        steps_per_epoch: Batches in an epoch, or in each of the epochs.
        checkpoints: Restores the last checkpoint and writes new ones; None starts at step 0
            and writes nothing.
        callbacks: Keras callbacks, among them those registered with `checkpoints`.
        should_stop: Whether a callback has already ended training before `epochs`.
        **settings: Further arguments of `fit`.

    Returns:
        The value of each metric after every epoch, from the first epoch on.

    Raises:
        InputError: The last checkpoint belongs to another model, or `steps_per_epoch` does not
            list a number of steps for each epoch.
        Interrupted: `checkpoints.stop` was called; a checkpoint is on disk.
    """
    history = EpochHistory()
    callbacks = [*callbacks, history, FirstStep()]
    step = 0
    if checkpoints is not None:
        checkpoints.register("history", history)
        callbacks.append(checkpoints)
        step = checkpoints.restore(model)
    ends = epoch_ends(steps_per_epoch, epochs)
    for start, first_epoch, last_epoch, steps in _remaining_fits(step, ends):
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


def epoch_ends(steps_per_epoch: int | Sequence[int], epochs: int) -> list[int]:
    """Returns the step after which each epoch ends.

    Raises:
        InputError: There are no epochs, `steps_per_epoch` lists another number of them, or an
            epoch has no steps.
    """
    if epochs < 1:
        raise InputError(f"epochs must be at least 1, got {epochs}")
    lengths = steps_per_epoch
    if not isinstance(lengths, Sequence):
        lengths = [lengths] * epochs
    if len(lengths) != epochs:
        raise InputError(
            f"steps_per_epoch must be one number or one for each of the {epochs} epochs, "
            f"got {len(lengths)}"
        )
    if min(lengths) < 1:
        raise InputError(f"steps_per_epoch must be at least 1, got {min(lengths)}")
    return list(itertools.accumulate(lengths))


def _remaining_fits(step: int, ends: list[int]) -> list[tuple[int, int, int, int]]:
    """The calls of `fit` after `step`: first step, first epoch, last epoch, steps per epoch.

    The rest of a started epoch is one call. Later epochs that follow each other and have the same
    number of steps are another.
    """
    first = bisect.bisect_right(ends, step)
    starts = [step, *ends[first:]]
    lengths = [end - start for start, end in itertools.pairwise(starts)]
    is_rest = first < len(ends) and step not in (0, *ends)
    fits = []
    # The rest of an epoch is a group of its own, whatever its length.
    groups = itertools.groupby(range(len(lengths)), lambda i: (is_rest and i == 0, lengths[i]))
    for (_, steps), group in groups:
        indices = list(group)
        fits.append((starts[indices[0]], first + indices[0], first + indices[-1] + 1, steps))
    return fits
