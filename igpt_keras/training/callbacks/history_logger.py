"""What a training did, in its run folder: history as JSON lines, and TensorBoard's events."""

import io
import json
import math
import os
import pathlib
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from PIL import Image

from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError
from igpt_keras.training.callbacks.running_means import RunningMeans, updates_done

HISTORY_FILE = "history.jsonl"
EVENTS_FOLDER = "events"
# What is another in every run, and in one that was resumed.
TIMED = ("time", "images_per_second")

Record = dict[str, float | None]
Picture = np.ndarray | Image.Image


class HistoryLogger(keras.callbacks.Callback):
    """Keeps a record of a training: every `every` steps, and at every end of a Keras epoch.

    A record is a dictionary of numbers, one line of `FOLDER/history.jsonl`:

    - `step`: how many batches were trained on.
    - `loss` and all other figures of Keras' logs: means over the steps since the last record.
      Losses are in nats, for a generative model per pixel; `bits_per_pixel` is that / ln 2.
    - `learning_rate`: of the last change of the weights.
    - `images_per_second`: while training alone, without validation, what other callbacks do,
      and the first step of every `fit`, which compiles; None where no other was timed.
    - `time`: seconds since 1970.
    - `val_loss`, …: at the end of an epoch.

    What is not finite is None, as JSON has no NaN. With the TensorFlow backend the records
    are in `FOLDER/events` as well, for TensorBoard, with `pictures`; a resumed run begins
    another file there, and tells TensorBoard to forget what came after its step.

    A history that is in `folder` already is replaced, unless `set_state` is called before `fit`.

    Args:
        folder: of the run.
        every: steps between two records; they are at multiples of it.
        batch_size: images a step.
        pictures: from the model to what TensorBoard shows after every epoch, by name: images
            uint8 [H, W, 3], or of PIL.
        listeners: called with every record, in the process that writes.
        writes: False in workers that are not the chief.

    Raises:
        InputError: `every` or `batch_size` below 1.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        every: int,
        batch_size: int,
        *,
        pictures: Callable[[keras.Model], dict[str, Picture]] | None = None,
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
        self._recent = RunningMeans()
        self._goes_on = False
        self._events = None

    def on_train_begin(self, logs=None):
        self._recent.begin(self.model)
        self._compiles = True
        self._seconds, self._timed_steps = 0.0, 0
        if not self.writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._goes_on:
            (self.folder / HISTORY_FILE).write_text("", encoding="utf-8")
        self._goes_on = True
        if keras.backend.backend() == "tensorflow":
            self._events = EventsFile(self.folder / EVENTS_FOLDER, self._recent.step)

    def on_train_batch_begin(self, batch, logs=None):
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        seconds = time.perf_counter() - self._start
        before = self._recent.step
        steps = self._recent.update(batch, logs)
        if not self._compiles:
            self._seconds += seconds
            self._timed_steps += steps
        self._compiles = False
        if self._recent.step // self.every > before // self.every:
            self._record({})

    def on_epoch_end(self, epoch, logs=None):
        if self.params["steps"]:
            # Of the last steps no one heard where the data ended within an execution.
            running = {k: v for k, v in logs.items() if not k.startswith("val_")}
            self._recent.update(self.params["steps"] - 1, running)
        self._recent.end_epoch()
        self._record({k: v for k, v in logs.items() if k.startswith("val_")})
        if self._events is not None and self.pictures is not None:
            for name, picture in self.pictures(self.model).items():
                self._events.add_picture(name, picture, self._recent.step)

    def on_train_end(self, logs=None):
        if self._events is not None:
            self._events.close()
            self._events = None

    def get_state(self) -> dict[str, Any]:
        """What `set_state` needs to go on in another process; what was written is on disk then."""
        if self.writes:
            with open(self.folder / HISTORY_FILE, "rb") as file:
                os.fsync(file.fileno())
        return self._recent.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from `get_state`: what the history says of later steps is dropped."""
        self._recent.set_state(state)
        self._goes_on = True
        if not self.writes:
            return
        records = [r for r in read_history(self.folder) if r["step"] <= state["step"]]
        with atomic_path(self.folder / HISTORY_FILE, overwrite=True) as partial:
            partial.write_text("".join(map(_line, records)), encoding="utf-8")

    def _record(self, validation):
        """Ends the time since the last record, and writes one."""
        # Read by all workers: variables may be spread over them.
        rate = learning_rate(self.model)
        figures = {}
        if self._recent.steps:
            speed = self.batch_size * self._timed_steps / self._seconds if self._seconds else None
            figures = {
                **self._recent.result(),
                "learning_rate": rate,
                "images_per_second": speed,
            }
        self._seconds, self._timed_steps = 0.0, 0
        if not self.writes:
            return
        figures = {**figures, **validation}
        record = {"step": self._recent.step, "time": time.time()}
        record |= {name: _finite(value) for name, value in figures.items()}
        with open(self.folder / HISTORY_FILE, "a", encoding="utf-8") as file:
            file.write(_line(record))
        if self._events is not None:
            self._events.add_figures(figures, self._recent.step)
        for listener in self.listeners:
            listener(record)


class EventsFile:
    """A new file of events, which TensorBoard shows; what is added is on disk at once.

    Written event by event: `tf.summary.scalar` and `image` need TensorBoard installed.

    Args:
        folder: it belongs in.
        step: what is there of later steps, TensorBoard forgets.
    """

    def __init__(self, folder: str | os.PathLike, step: int):
        import tensorflow as tf

        self._tf = tf
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of their names.
        name = f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}"
        self._writer = tf.io.TFRecordWriter(str(folder / name))
        self._add(file_version="brain.Event:2")
        session = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        # Those of this step itself stay.
        self._add(step=step + 1, session_log=session)

    def add_figures(self, figures: dict[str, float | None], step: int) -> None:
        """Adds one number a name."""
        values = [
            self._value(name, "scalars", self._tf.make_tensor_proto(figure, "float32"))
            for name, figure in figures.items()
            if figure is not None
        ]
        self._add(step=step, summary=self._tf.compat.v1.Summary(value=values))

    def add_picture(self, name: str, picture: Picture, step: int) -> None:
        """Adds an image uint8 [H, W, 3], or one of PIL."""
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        png = io.BytesIO()
        picture.save(png, format="PNG")
        content = [str(picture.width).encode(), str(picture.height).encode(), png.getvalue()]
        value = self._value(name, "images", self._tf.make_tensor_proto(content))
        self._add(step=step, summary=self._tf.compat.v1.Summary(value=[value]))

    def add_metadata(self, name: str, plugin: str, content: bytes) -> None:
        """Adds what a plugin of TensorBoard reads beside figures."""
        value = self._value(name, plugin, self._tf.make_tensor_proto(0.0), content)
        self._add(step=0, summary=self._tf.compat.v1.Summary(value=[value]))

    def close(self) -> None:
        self._writer.close()

    def _value(self, name, plugin, tensor, content=b""):
        data = {"plugin_name": plugin, "content": content}
        metadata = self._tf.compat.v1.SummaryMetadata(plugin_data=data)
        return self._tf.compat.v1.Summary.Value(tag=name, metadata=metadata, tensor=tensor)

    def _add(self, **event):
        event = self._tf.compat.v1.Event(wall_time=time.time(), **event)
        self._writer.write(event.SerializeToString())
        self._writer.flush()


def read_history(folder: str | os.PathLike) -> list[Record]:
    """The records of a `HistoryLogger` in `folder`, the oldest first.

    A last line that is not whole, of a run that was killed, is left out.

    Raises:
        InputError: there is no history, or another line is damaged.
    """
    path = pathlib.Path(folder, HISTORY_FILE)
    if not path.is_file():
        raise InputError(f"{path} does not exist: {folder} is not the folder of a run")
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged: {error}") from error


def learning_rate(model: keras.Model) -> float:
    """That of the last change of the weights of `model`."""
    # Dynamic loss scaling wraps the optimizer.
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    # `learning_rate` is that of the change to come.
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(max(updates_done(model) - 1, 0))
    return float(keras.ops.convert_to_numpy(rate))


def _finite(figure):
    return float(figure) if figure is not None and math.isfinite(figure) else None


def _line(record):
    return json.dumps(record, allow_nan=False) + "\n"
