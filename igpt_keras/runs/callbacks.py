"""Callbacks that also hear of what happens outside `fit` in a run."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from igpt_keras.training.callbacks.history_logger import Record

Callbacks = Sequence[keras.callbacks.Callback]


class RunCallback(keras.callbacks.Callback):
    """A Keras callback that also hears of what happens outside `fit` in a run.

    Any callback that has one of these methods is called, whatever its class.
    """

    def on_record(self, record: Record) -> None:
        """Called with every record that training adds to `history.jsonl`."""

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Called as work other than `fit` proceeds.

        Args:
            stage: What is being done: "features" (images), "probes" (layers) or "rows".
            done: Units done so far.
            total: Units in all.
        """


def report_progress(callbacks: Callbacks, stage: str, done: int, total: int) -> None:
    """Calls `on_progress` of the callbacks that have it."""
    for on_progress in methods_of(callbacks, "on_progress"):
        on_progress(stage, done, total)


def methods_of(callbacks: Callbacks, name: str) -> list[Callable[..., Any]]:
    """Returns the methods of a name, of the callbacks that have it."""
    return [getattr(callback, name) for callback in callbacks if hasattr(callback, name)]
