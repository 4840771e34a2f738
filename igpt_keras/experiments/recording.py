"""What a training writes to its run's folder, so that it can be followed and gone on with."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable

import keras
import tensorflow as tf

from igpt_keras.experiments.options import TrainingOptions
from igpt_keras.training.guard import SpikeGuard
from igpt_keras.training.journal import Journal, Picture, Record
from igpt_keras.training.runs import STATES
from igpt_keras.training.state import KEPT, SAVE_EVERY, Remembers, States, stopped_by_signals
from igpt_keras.training.strategies import is_chief


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordingSettings:
    """How often a training writes, and what stays.

    Attributes:
        save_every: steps between two states.
        keep_states: how many of the last stay.
        log_every: steps between two lines of the history.
    """

    save_every: int = SAVE_EVERY
    keep_states: int = KEPT
    log_every: int = 10


def recording(
    output: pathlib.Path,
    settings: RecordingSettings,
    training: TrainingOptions,
    strategy: tf.distribute.Strategy,
    *,
    batch_size: int,
    total_steps: int,
    listener: Callable[[Record], None],
    pictures: Callable[[keras.Model], dict[str, Picture]] | None = None,
    others: dict[str, Remembers] | None = None,
) -> States:
    """The states of a run, and what they remember: its journal, the guard, and `others`.

    Args:
        output: the run's folder.
        settings: how often it is written.
        training: whether there is a guard.
        strategy: of the model.
        batch_size: images in a step.
        total_steps: of the training.
        listener: called with every record of the journal.
        pictures: as of `Journal`.
        others: callbacks that remember, by their names.
    """
    writes = is_chief(strategy)
    journal = Journal(
        output,
        settings.log_every,
        batch_size,
        pictures=pictures,
        listeners=[listener],
        writes=writes,
    )
    callbacks = {**(others or {}), "journal": journal}
    if training.guard:
        callbacks["guard"] = SpikeGuard(total_steps)
    return States(
        output / STATES,
        settings.save_every,
        keep=settings.keep_states,
        writes=writes,
        callbacks=callbacks,
    )


def stopping(
    states: States, strategy: tf.distribute.Strategy
) -> contextlib.AbstractContextManager[None]:
    """`stopped_by_signals`; but one of several workers, for which the others would wait, is not."""
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return contextlib.nullcontext()
    return stopped_by_signals(states)
