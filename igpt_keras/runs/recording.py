"""What a training writes to its run's folder, so that it can be followed and gone on with."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable

import keras
import tensorflow as tf

from igpt_keras.runs.folder import CHECKPOINTS
from igpt_keras.runs.options import TrainingOptions
from igpt_keras.training.callbacks.checkpoint_manager import (
    CHECKPOINT_EVERY,
    MAX_TO_KEEP,
    CheckpointManager,
    Stateful,
    stopped_by_signals,
)
from igpt_keras.training.callbacks.divergence_detector import DivergenceDetector
from igpt_keras.training.callbacks.history_logger import HistoryLogger, Picture, Record
from igpt_keras.training.strategies import is_chief


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordingSettings:
    """How often a training writes, and what stays.

    Attributes:
        checkpoint_every: steps between two states.
        max_checkpoints: how many of the last stay.
        log_every: steps between two lines of the history.
    """

    checkpoint_every: int = CHECKPOINT_EVERY
    max_checkpoints: int = MAX_TO_KEEP
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
    others: dict[str, Stateful] | None = None,
) -> CheckpointManager:
    """The states of a run, and what they remember: its journal, the guard, and `others`.

    Args:
        output: the run's folder.
        settings: how often it is written.
        training: whether there is a guard.
        strategy: of the model.
        batch_size: images in a step.
        total_steps: of the training.
        listener: called with every record of the journal.
        pictures: as of `HistoryLogger`.
        others: callbacks that remember, by their names.
    """
    writes = is_chief(strategy)
    journal = HistoryLogger(
        output,
        settings.log_every,
        batch_size,
        pictures=pictures,
        listeners=[listener],
        writes=writes,
    )
    callbacks = {**(others or {}), "journal": journal}
    if training.stop_on_divergence:
        callbacks["divergence_detector"] = DivergenceDetector(total_steps)
    return CheckpointManager(
        output / CHECKPOINTS,
        settings.checkpoint_every,
        max_to_keep=settings.max_checkpoints,
        writes=writes,
        callbacks=callbacks,
    )


def stopping(
    states: CheckpointManager, strategy: tf.distribute.Strategy
) -> contextlib.AbstractContextManager[None]:
    """`stopped_by_signals`; but one of several workers, for which the others would wait, is not."""
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return contextlib.nullcontext()
    return stopped_by_signals(states)
