"""A search that shows its trials while it runs."""

import contextlib
import json
import time
from typing import Any

import click
from keras_tuner.engine.trial import Trial
from rich.console import Console
from rich.live import Live

from igpt_keras.training.callbacks.running_means import updates_done
from tuning import LearningRateSearch
from tuning.summary import trial_as_json, trials_table

SECONDS_BETWEEN_UPDATES = 0.25


class DisplayedSearch(LearningRateSearch):
    """Shows trials: in a live table at a terminal, elsewhere as one line each.

    Args:
        *arguments: As for `LearningRateSearch`.
        form: "auto", "json" for one JSON object per trial, or "quiet".
        **keywords: As for `LearningRateSearch`.
    """

    def __init__(self, *arguments, form: str, **keywords):
        super().__init__(*arguments, **keywords)
        console = Console(stderr=form == "json")
        # A worker of several processes knows no trials but its own.
        is_table = form == "auto" and console.is_terminal and self.writes
        self.form = "table" if is_table else form
        self._live = Live(console=console, auto_refresh=False)
        self._shown = 0.0

    def search(self, **keywords: Any) -> None:
        """Runs the search."""
        with self._live if self.form == "table" else contextlib.nullcontext():
            super().search(**keywords)
            self._show()

    def on_trial_begin(self, trial: Trial) -> None:
        """Announces the trial."""
        super().on_trial_begin(trial)
        self._show()
        if self.form == "auto":
            click.echo(f"{_name(trial)}: training")

    def on_batch_end(
        self, trial: Trial, model: Any, batch: int, logs: dict[str, float] | None = None
    ) -> None:
        """Updates the table."""
        if (
            logs
            and self.form == "table"
            and time.monotonic() > self._shown + SECONDS_BETWEEN_UPDATES
        ):
            self._show(f"step {updates_done(model)}, loss {logs['loss']:.3f}")

    def on_trial_end(self, trial: Trial) -> None:
        """Shows the result of the trial."""
        super().on_trial_end(trial)
        ended = trial_as_json(self.oracle.get_trial(trial.trial_id))
        if self.form == "json":
            click.echo(json.dumps(ended))
        elif self.form == "auto":
            if ended["score"] is None:
                outcome = (trial.message or "").removeprefix("training ")
            else:
                outcome = f"{self.oracle.objective.name} {ended['score']:.4f}"
            click.echo(f"{_name(trial)}: {outcome}")

    def _show(self, running=""):
        if self.form == "table":
            self._shown = time.monotonic()
            self._live.update(trials_table(self, running), refresh=True)


def _name(trial) -> str:
    values = trial.hyperparameters.values.items()
    return ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in values)


def _short(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
