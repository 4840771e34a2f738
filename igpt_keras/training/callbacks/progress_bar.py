"""Progress of a training, for a terminal or for a log."""

import json
import math
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from igpt_keras.errors import InputError
from igpt_keras.training.callbacks.callback import Callback, Logs
from igpt_keras.training.callbacks.running_means import updates_done

FORMS = ("auto", "json", "quiet")
SECONDS_BETWEEN_LINES = 10
# A step takes from milliseconds to a minute. rich measures the speed over this many seconds, or
# over the last 1,000 updates.
SPEED_PERIOD = 600


class ProgressBar(Callback):
    """Shows step, latest metrics, speed and remaining time of a run of one or more `fit` calls.

    On a terminal this is a bar. Elsewhere it is a line of text at the end of every epoch and,
    with a `HistoryLogger`, at most every ten seconds between. The remaining time follows from
    the speed of this process, including validation.

    It is a context manager, which restores the terminal however the run ends. Metrics are those
    of Keras' logs at the end of an epoch; with `on_record` as a listener of a `HistoryLogger` they
    are the means since its last record.

    Args:
        description: Text before the bar.
        metrics: Names of the metrics to show, as in the logs of `fit`. JSON has all of them.
        total_steps: Steps of the whole run, including those before it was resumed; None for
            those of `fit`.
        form: "auto"; "json" for one object a line for every record (or epoch, without a
            `HistoryLogger`), with `total_steps` and `seconds_left`; or "quiet".
        console: The console to write to; None for standard output.

    Raises:
        InputError: The form is unknown.

    Example:
    ```python
    from igpt_keras.training import HistoryLogger, ProgressBar

    with ProgressBar("pre-training", ("loss", "val_loss")) as bar:
        logger = HistoryLogger("run", every=10, batch_size=128, listeners=[bar.on_record])
        model.fit(tokens, batch_size=128, callbacks=[logger, bar], verbose=0)
    ```
    """

    def __init__(
        self,
        description: str,
        metrics: tuple[str, ...],
        total_steps: int | None = None,
        form: str = "auto",
        console: Console | None = None,
    ):
        super().__init__()
        if form not in FORMS:
            raise InputError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
        self.metrics = metrics
        console = Console() if console is None else console
        self.form = ("bar" if console.is_terminal else "lines") if form == "auto" else form
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[position]} {task.fields[metrics]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            speed_estimate_period=SPEED_PERIOD,
        )
        self.progress.add_task(description, total=total_steps, start=False, position="", metrics="")
        (self._task,) = self.progress.tasks
        self._step = 0
        self._started = False
        self._latest: dict[str, Any] = {}
        self._has_logger = False
        self._last_line = -math.inf

    def __enter__(self) -> "ProgressBar":
        if self.form == "bar":
            self.progress.start()
        return self

    def __exit__(self, *exception) -> None:
        if self.form == "bar":
            self.progress.stop()

    def on_record(self, record: dict[str, float | None]) -> None:
        """Shows a record of a `HistoryLogger`."""
        self._has_logger = True
        self._advance(int(record["step"] or 0))
        self._report(record, any(name.startswith("val_") for name in record))

    def on_train_begin(self, logs: Logs = None) -> None:
        if not self._started:
            self._step, self._started = updates_done(self.model), True
            # `update` would count the steps before a resumed run in the speed.
            self.progress.reset(self._task.id, completed=self._step)
        if self._task.total is None and self.params["steps"]:
            total = self._step + self.params["epochs"] * self.params["steps"]
            self.progress.update(self._task.id, total=total)
        self._advance(self._step)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._start_of_epoch = self._step

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._advance(self._start_of_epoch + batch + 1)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self.params["steps"]:
            self._advance(self._start_of_epoch + self.params["steps"])
        elif self._task.total is None:
            # The number of batches is known only at the end of the first epoch.
            total = self._step + (self.params["epochs"] - epoch - 1) * (
                self._step - self._start_of_epoch
            )
            self.progress.update(self._task.id, total=total)
            self._advance(self._step)
        if not self._has_logger:
            self._report({"step": self._step, **(logs or {})}, True)

    def _advance(self, step: int) -> None:
        self._step = step
        total = "?" if self._task.total is None else f"{self._task.total:.0f}"
        self.progress.update(self._task.id, completed=step, position=f"{step}/{total}")

    def _report(self, record: dict[str, float | None], at_once: bool) -> None:
        """Shows a record; `at_once` also where a line was printed a moment ago."""
        self._latest |= {name: value for name, value in record.items() if value is not None}
        shown = [*self.metrics, "images_per_second"]
        metrics = [_in_words(name, self._latest[name]) for name in shown if name in self._latest]
        self.progress.update(self._task.id, metrics=", ".join(metrics))
        left = self._task.time_remaining
        if self.form == "json":
            numbers = {"total_steps": self._task.total, "seconds_left": left}
            finite = {
                name: value if value is not None and math.isfinite(value) else None
                for name, value in {**record, **numbers}.items()
            }
            self._print(json.dumps({"run": self._task.description, **finite}))
        elif self.form == "lines":
            now = time.monotonic()
            if at_once or now - self._last_line >= SECONDS_BETWEEN_LINES:
                self._last_line = now
                remaining = [] if left is None else [f"{_clock(left)} left"]
                head = f"{self._task.description}: step {self._task.fields['position']}"
                self._print(", ".join([head, *metrics, *remaining]))

    def _print(self, line: str) -> None:
        print(line, file=self.progress.console.file, flush=True)


def _in_words(name: str, value: float) -> str:
    if name == "loss":
        return f"loss {value:.3f} nats"
    if name == "bits_per_pixel":
        return f"{value:.3f} bits/pixel"
    if name == "images_per_second":
        return f"{value:.3g} images/s" if value < 100 else f"{value:.0f} images/s"
    return f"{name} {value:.3f}"


def _clock(seconds: float) -> str:
    """Formats a duration as H:MM:SS."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
