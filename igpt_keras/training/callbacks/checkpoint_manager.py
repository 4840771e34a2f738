"""All that a training goes on from, written whole or not at all, the last few kept."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import keras
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError

ARRAYS_FILE = "arrays.safetensors"
CHECKPOINT_FILE = "checkpoint.json"
VARIABLES, METRICS = "variables", "metrics"
FORMAT_VERSION = 2
CHECKPOINT_EVERY, MAX_TO_KEEP = 1000, 2


class Interrupted(Exception):
    """Training was told to stop; its state at `step` is on disk.

    Attributes:
        step: after which it stopped.
        signal_number: of the signal that told it, None where none did.
    """

    def __init__(self, step: int, signal_number: int | None = None):
        super().__init__(f"training was stopped after step {step}")
        self.step = step
        self.signal_number = signal_number


class Stateful(Protocol):
    """A callback that goes on from what it knew."""

    def get_state(self) -> dict[str, Any]:
        """JSON values, or arrays of NumPy."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what `get_state` gave, before training goes on."""


class CheckpointManager(keras.callbacks.Callback):
    """Writes checkpoints, `FOLDER/step-00001000`, and goes on from the last.

    A state is the variables of model, optimizer and metrics (weights, moments, step, loss
    scale, seeds of random numbers) and what other callbacks know. One is written every `every`
    steps, at the end of every Keras epoch, and when `stop` was called.

    Args:
        folder: of the checkpoints.
        every: steps between two of them.
        max_to_keep: how many of the last stay.
        writes: False in workers that are not the chief.
        callbacks: those that remember, by a name that stays the same. Must come before this
            one in the list that `fit` gets: they have then done their part of a step.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        every: int = CHECKPOINT_EVERY,
        *,
        max_to_keep: int = MAX_TO_KEEP,
        writes: bool = True,
        callbacks: dict[str, Stateful] | None = None,
    ):
        super().__init__()
        if every < 1:
            raise InputError(f"every must be at least 1 step, got {every}")
        if max_to_keep < 1:
            raise InputError(f"max_to_keep must be at least 1 checkpoint, got {max_to_keep}")
        self.folder = pathlib.Path(folder)
        self.every = every
        self.max_to_keep = max_to_keep
        self.writes = writes
        self.callbacks = dict(callbacks or {})
        self._stopping, self._signal_number = False, None
        # Of metrics in the epoch that goes on.
        self._metrics: dict[str, np.ndarray] = {}
        # Steps before the epoch that `fit` is in, or before its rest where one goes on. (The
        # optimizer's own count leaves out steps that a loss scale has skipped.)
        self._before = self._written = 0

    def register(self, name: str, callback: Stateful) -> None:
        """Adds one that remembers, before `restore`."""
        self.callbacks[name] = callback

    def stop(self, signal_number: int | None = None) -> None:
        """Ends training after the current step, by `Interrupted`, which tells of the signal."""
        self._stopping, self._signal_number = True, signal_number

    def restore(self, model: keras.Model) -> int:
        """Puts the compiled `model` into the last state; returns its step, 0 without a state.

        Raises:
            InputError: a checkpoint of another model, or a damaged one.
        """
        paths = self.paths()
        if not paths:
            return 0
        path = paths[-1]
        about = _read_about(path)
        arrays = _read_arrays(path / ARRAYS_FILE)
        model.optimizer.build(model.trainable_variables)
        _assign(_variables(model), _part_of(VARIABLES, arrays), path)
        if about["within_epoch"]:
            self._metrics = _part_of(METRICS, arrays)
        for name, callback in self.callbacks.items():
            # A guard, say, may be new in a run that goes on.
            if name in about["callbacks"]:
                callback.set_state({**about["callbacks"][name], **_part_of(name, arrays)})
        self._before = self._written = about["step"]
        return self._before

    def paths(self) -> list[pathlib.Path]:
        """Of all checkpoints, the oldest first."""
        return sorted(
            path for path in self.folder.glob("step-*") if (path / CHECKPOINT_FILE).is_file()
        )

    def on_epoch_begin(self, epoch, logs=None):
        # Keras has reset them, also where an epoch goes on.
        if self._metrics:
            _assign(_metrics(self.model), self._metrics, self.paths()[-1])
        self._metrics = {}

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 >= self.params["steps"]:
            # The end of the epoch comes with it: validation, and then a state.
            return
        step = self._before + batch + 1
        if self._stopping or step // self.every > self._written // self.every:
            self._write(step, within_epoch=True)
        if self._stopping:
            raise Interrupted(step, self._signal_number)

    def on_epoch_end(self, epoch, logs=None):
        self._before += self.params["steps"]
        self._write(self._before, within_epoch=False)
        if self._stopping:
            raise Interrupted(self._before, self._signal_number)

    def _write(self, step, within_epoch):
        # In all workers: values that are summed over them must be read by all of them.
        arrays = {
            f"{part}/{name}": keras.ops.convert_to_numpy(variable)
            for part, variables in (
                (VARIABLES, _variables(self.model)),
                (METRICS, _metrics(self.model)),
            )
            for name, variable in variables.items()
        }
        self._written = step
        if not self.writes:
            return
        states = {}
        for name, callback in self.callbacks.items():
            state = callback.get_state()
            own = {key for key, value in state.items() if isinstance(value, np.ndarray)}
            arrays |= {f"{name}/{key}": state[key] for key in own}
            states[name] = {key: value for key, value in state.items() if key not in own}
        about = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "within_epoch": within_epoch,
            "callbacks": states,
        }
        path = self.folder / f"step-{step:08d}"
        with atomic_path(path, overwrite=True, marker=CHECKPOINT_FILE) as partial:
            partial.mkdir()
            _save_arrays(arrays, partial / ARRAYS_FILE)
            (partial / CHECKPOINT_FILE).write_text(json.dumps(about) + "\n", encoding="utf-8")
            for file in (*partial.iterdir(), partial):
                _sync(file)
        _sync(self.folder)
        for old in self.paths()[: -self.max_to_keep]:
            # Without it the rest is no state, should this be interrupted.
            (old / CHECKPOINT_FILE).unlink()
            shutil.rmtree(old)


@contextlib.contextmanager
def stopped_by_signals(checkpoints: CheckpointManager) -> Iterator[None]:
    """The first SIGTERM or Ctrl-C ends training after a step, with its state on disk."""

    def stop(signal_number, frame):
        # A second one ends the process at once.
        signal.signal(signal_number, before[signal_number])
        checkpoints.stop(signal_number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _variables(model) -> dict[str, keras.Variable]:
    """All that changes in training but metrics, by names that are the same in every process."""
    metrics = {id(variable) for variable in model.metrics_variables}
    ordered = [*model.variables, *model.optimizer.variables]
    return _numbered(variable for variable in ordered if id(variable) not in metrics)


def _metrics(model) -> dict[str, keras.Variable]:
    """Likewise the variables of the metrics."""
    return _numbered(model.metrics_variables)


def _numbered(variables: Iterable[keras.Variable]) -> dict[str, keras.Variable]:
    unique = {id(variable): variable for variable in variables}.values()
    return {f"{index:05d}": variable for index, variable in enumerate(unique)}


def _assign(variables: dict[str, keras.Variable], values: dict[str, np.ndarray], path) -> None:
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    if shapes != {name: value.shape for name, value in values.items()}:
        raise InputError(f"{path} is the checkpoint of another model or of another optimizer")
    for name, variable in variables.items():
        variable.assign(values[name])


def _part_of(name: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of all `arrays` of a state those of `name`, without it."""
    prefix = f"{name}/"
    return {k.removeprefix(prefix): array for k, array in arrays.items() if k.startswith(prefix)}


def _save_arrays(values, file):
    try:
        save_file(values, file)
    except SafetensorError as error:
        # A full disk, say: what everything else that writes raises.
        raise OSError(f"{file} cannot be written: {error}") from error


def _read_about(path):
    about = json.loads((path / CHECKPOINT_FILE).read_text(encoding="utf-8"))
    if about["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path} has format_version {about['format_version']}; this version reads "
            f"{FORMAT_VERSION}"
        )
    return about


def _read_arrays(file) -> dict[str, np.ndarray]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise InputError(f"{file} is damaged: {error}") from error


def _sync(path):
    """Waits until a file or folder is on disk, so that a state survives a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
