"""The history of a training: JSON lines, and event files for TensorBoard."""

import hashlib
import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from PIL import Image

from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError
from igpt_keras.training.callbacks.callback import Callback, Logs
from igpt_keras.training.callbacks.events import EventWriter, can_write_events, drop_events
from igpt_keras.training.callbacks.running_means import RunningMeans, not_means, updates_done

HISTORY_FILE = "history.jsonl"
EVENTS_FOLDER = "events"
# These differ between two runs, and between a resumed run and one that was not interrupted.
TIMED = ("time", "images_per_second")

Record = dict[str, float | None]
Picture = np.ndarray | Image.Image


class HistoryLogger(Callback):
    """Records metrics every `every` steps and at the end of every epoch.

    A record is a dictionary of numbers and one line of `FOLDER/history.jsonl`:

    - `step`: Batches trained on so far.
    - `loss` and the other metrics of Keras' logs: means over the steps since the last record;
      what is no mean over steps, such as an AUC, over the epoch so far.
      Losses of models are in nats, of a generative one per token. With a token for each pixel,
      `bits_per_pixel` is that / ln 2.
    - `learning_rate`: The rate of the last update of the weights.
    - `images_per_second`: Speed of training, without validation, other callbacks and the first
      step of every `fit`, which compiles; None where no other step was timed.
    - `time`: Seconds since 1970.
    - `val_loss`, …: At the end of an epoch.

    Values that are not finite are None, as JSON has no NaN. With TensorFlow as backend and
    TensorBoard installed (the extra `report`), event files in `FOLDER/events` hold
    the same records, and `pictures`.

    A new training replaces the history in `folder`. A training that is resumed (`set_state`)
    keeps it up to the step of the checkpoint and drops later records and events.

    Args:
        folder: Folder of the run.
        every: Steps between two records, which are at its multiples.
        batch_size: Images in a step.
        pictures: Function from the model to images for TensorBoard by name, uint8 [H, W, 3] or
            PIL images; called after every epoch.
        listeners: Functions that are called with every record, in the process that writes.
        writes: Whether this process writes; False in workers that are not the chief.

    Raises:
        InputError: `every` or `batch_size` is less than 1.

    Example:
        ```python
        from igpt_keras.training import HistoryLogger, read_history

        model.fit(tokens, batch_size=16, callbacks=[HistoryLogger("run", every=10, batch_size=16)])
        losses = [record["loss"] for record in read_history("run")]
        ```
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        every: int,
        batch_size: int,
        *,
        pictures: Callable[[Any], Mapping[str, Picture]] | None = None,
        listeners: Sequence[Callable[[Record], None]] = (),
        writes: bool = True,
    ):
        super().__init__()
        for name, value in (("every", every), ("batch_size", batch_size)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        self.folder = pathlib.Path(folder)
        self.every = every
        self.batch_size = batch_size
        self.pictures = pictures
        self.listeners = listeners
        self.writes = writes
        self._means = RunningMeans()
        self._started = False
        self._events: EventWriter | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        self._means.begin(self.model)
        self._compiles = True
        self._seconds, self._timed_steps = 0.0, 0
        if not self.writes:
            return
        events = self.folder / EVENTS_FOLDER
        if not self._started:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / HISTORY_FILE).write_text("", encoding="utf-8")
            shutil.rmtree(events, ignore_errors=True)
        self._started = True
        if can_write_events():
            self._events = EventWriter(events)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        seconds = time.perf_counter() - self._start
        before = self._means.step
        steps = self._means.update(batch, logs or {})
        if not self._compiles:
            self._seconds += seconds
            self._timed_steps += steps
        self._compiles = False
        if self._means.step // self.every > before // self.every:
            self._record(not_means(self.model, logs or {}))

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = logs or {}
        if self.params["steps"]:
            # Keras reports no batch end where the data ends within an execution of several steps.
            running = {k: v for k, v in logs.items() if not k.startswith("val_")}
            self._means.update(self.params["steps"] - 1, running)
        self._means.end_epoch()
        # Those of validation are of the epoch, whatever they are.
        self._record(not_means(self.model, logs))
        if self._events is not None and self.pictures is not None:
            self._events.write(self._means.step, images=self.pictures(self.model))

    def on_train_end(self, logs: Logs = None) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def get_state(self) -> dict[str, Any]:
        """Returns what `set_state` needs to resume; all records are on disk then."""
        state = self._means.get_state()
        if self.writes:
            with open(self.folder / HISTORY_FILE, "rb") as file:
                os.fsync(file.fileno())
                content = file.read()
            state |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned and drops the records and events of later steps.

        Raises:
            InputError: The records of earlier steps are not as they were written.
        """
        self._means.set_state(state)
        self._started = True
        if not self.writes:
            return
        step = state["step"]
        path = self.folder / HISTORY_FILE
        content = path.read_bytes()[: state["bytes"]]
        if hashlib.sha256(content).hexdigest() != state["sha256"]:
            raise InputError(f"{path} is damaged: its records up to step {step} were changed")
        with atomic_path(path, overwrite=True) as partial:
            partial.write_bytes(content)
        if can_write_events():
            drop_events(self.folder / EVENTS_FOLDER, after_step=step)

    def _record(self, others: dict[str, float]) -> None:
        """Writes a record of the steps since the last one, with the values of other metrics."""
        # All workers read the rate: its variables may be spread over them.
        rate = learning_rate(self.model)
        metrics = {}
        if self._means.steps:
            speed = self.batch_size * self._timed_steps / self._seconds if self._seconds else None
            metrics = {
                **self._means.result(),
                "learning_rate": rate,
                "images_per_second": speed,
            }
        self._seconds, self._timed_steps = 0.0, 0
        if not self.writes:
            return
        metrics = {**metrics, **others}
        record = {"step": self._means.step, "time": time.time()}
        record |= {name: _finite(value) for name, value in metrics.items()}
        with open(self.folder / HISTORY_FILE, "a", encoding="utf-8") as file:
            file.write(_line(record))
        if self._events is not None:
            self._events.write(self._means.step, metrics)
        for listener in self.listeners:
            listener(record)


def read_history(folder: str | os.PathLike) -> list[Record]:
    """Returns the records that a `HistoryLogger` wrote to `folder`, the oldest first.

    An incomplete last line, of a process that was killed, is omitted.

    Raises:
        InputError: There is no history, or another line is damaged.
    """
    path = pathlib.Path(folder, HISTORY_FILE)
    if not path.is_file():
        raise InputError(f"{path} does not exist: {folder} is not the folder of a run")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from error


def learning_rate(model: keras.Model) -> float:
    """Returns the learning rate of the last update of the weights of `model`."""
    # Dynamic loss scaling wraps the optimizer.
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    # A schedule gives the rate of the next update.
    last = max(updates_done(model) - 1, 0)
    iterations = keras.ops.convert_to_tensor(last, optimizer.iterations.dtype)
    with keras.StatelessScope(state_mapping=[(optimizer.iterations, iterations)]):
        rate = optimizer.learning_rate
    value: Any = keras.ops.convert_to_numpy(rate)
    return float(value)


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"
