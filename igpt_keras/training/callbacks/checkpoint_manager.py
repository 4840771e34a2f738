"""Checkpoints that training resumes from bit for bit."""

import contextlib
import json
import os
import pathlib
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import keras
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from igpt_keras.atomic import atomic_path, remove_folder
from igpt_keras.checksums import find_damage, write_checksums
from igpt_keras.errors import InputError, InputWarning, Interrupted
from igpt_keras.json_files import read_json
from igpt_keras.training.callbacks.callback import Callback, Logs

ARRAYS_FILE = "arrays.safetensors"
CHECKPOINT_FILE = "checkpoint.json"
VARIABLES, METRICS = "variables", "metrics"
FORMAT_VERSION = 3
CHECKPOINT_EVERY = 1000
MAX_TO_KEEP = 2


class Stateful(Protocol):
    """A callback whose state is part of a checkpoint."""

    def get_state(self) -> dict[str, Any]:
        """Returns the state: JSON values and NumPy arrays by name."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned. Is called before `fit`."""
        ...


class CheckpointManager(Callback):
    """Writes checkpoints `FOLDER/step-00001000` and restores the last one.

    A checkpoint holds the variables of model, optimizer and metrics (weights, moments, step,
    loss scale, seeds) and the state of registered callbacks. It is written every `every` steps,
    at the end of every epoch, and after `stop`, and appears whole or not at all.

    `pretrain`, `finetune` and `resumable_fit` take a manager as `checkpoints`; they restore and
    register what they need.

    Args:
        folder: Folder of the checkpoints.
        every: Steps between two checkpoints.
        max_to_keep: How many of the latest checkpoints are kept.
        writes: Whether this process writes; False in workers that are not the chief.
        callbacks: Callbacks to register, by a name that stays the same between processes. They
            must precede the manager in the list that `fit` gets, so that they have handled a
            step when it is saved.

    Raises:
        InputError: `every` or `max_to_keep` is less than 1.

    Example:
        ```python
        import numpy as np
        import tensorflow as tf

        import igpt_keras
        from igpt_keras.training import CheckpointManager, pretrain

        tokens = np.zeros([64, 16], "int32")

        def batches(step):
            batches = tf.data.Dataset.from_tensor_slices(tokens).batch(8)
            return batches.repeat().skip(step % len(batches))

        config = igpt_keras.ImageGPTConfig(
            image_size=4, vocabulary_size=8, hidden_dim=8, num_layers=1, num_heads=1
        )
        checkpoints = CheckpointManager("checkpoints", every=100)  # The same call resumes.
        pretrain(
            igpt_keras.ImageGPT(config), batches, tokens, epochs=2, steps_per_epoch=8,
            checkpoints=checkpoints,
        )
        ```
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
        self.callbacks: dict[str, Any] = dict(callbacks or {})
        self._stopping, self._signal_number = False, None
        # Values of the metrics in an epoch that is resumed.
        self._metrics: dict[str, np.ndarray] = {}
        # Steps before the current epoch, or before the rest of it where it is resumed. (The
        # optimizer's own count omits steps that a loss scale skipped.)
        self._steps_before = self._last_written = 0

    def register(self, name: str, callback: Stateful) -> None:
        """Adds a callback to what is saved and restored. Call it before `restore`."""
        self.callbacks[name] = callback

    def stop(self, signal_number: int | None = None) -> None:
        """Stops training after the current step: `fit` raises `Interrupted`.

        Args:
            signal_number: The signal that is the reason, if any.
        """
        self._stopping, self._signal_number = True, signal_number

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def restore(self, model: keras.Model) -> int:
        """Restores the last checkpoint.

        Args:
            model: The compiled model.

        A damaged checkpoint is removed, with a warning, and the one before is restored.

        Returns:
            The step of the checkpoint; 0 if there is none.

        Raises:
            InputError: The checkpoint belongs to another model, or all are damaged.
        """
        path = self._last_intact()
        if path is None:
            return 0
        checkpoint = _read_checkpoint(path)
        arrays = load_file(path / ARRAYS_FILE)
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
        _assign(_variables(model), _with_prefix(VARIABLES, arrays), path)
        if checkpoint["within_epoch"]:
            self._metrics = _with_prefix(METRICS, arrays)
        for name, callback in self.callbacks.items():
            # A resumed run may register callbacks that it began without.
            if name in checkpoint["callbacks"]:
                state = {**checkpoint["callbacks"][name], **_with_prefix(name, arrays)}
                callback.set_state(state)
        self._steps_before = self._last_written = checkpoint["step"]
        return self._steps_before

    def _last_intact(self) -> pathlib.Path | None:
        """Returns the last checkpoint that is as it was written, and removes later ones."""
        damaged = []
        for path in reversed(self.paths()):
            damage = find_damage(path, ARRAYS_FILE, CHECKPOINT_FILE)
            if damage is None:
                for later, reason in damaged:
                    warnings.warn(
                        f"{later} is damaged: {reason}; training resumes from {path.name}",
                        InputWarning,
                        stacklevel=4,
                    )
                    if self.writes:
                        remove_folder(later)
                return path
            damaged.append((path, damage))
        if damaged:
            reasons = "; ".join(f"{path.name}: {reason}" for path, reason in damaged)
            raise InputError(
                f"every checkpoint in {self.folder} is damaged ({reasons}); begin the training "
                "again, in another folder or by replacing this one"
            )
        return None

    def paths(self) -> list[pathlib.Path]:
        """Returns the folders of all checkpoints, the oldest first."""
        return sorted(self.folder.glob("step-*"))

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        # Keras has reset the metrics, also where an epoch is resumed.
        if self._metrics:
            _assign(_metrics(self.model), self._metrics, self.paths()[-1])
        self._metrics = {}

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if batch + 1 >= self.params["steps"]:
            # The end of the epoch follows, with validation and then a checkpoint.
            return
        step = self._steps_before + batch + 1
        if self._stopping or step // self.every > self._last_written // self.every:
            self._write(step, within_epoch=True)
        if self._stopping:
            raise Interrupted(step, self._signal_number)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._steps_before += self.params["steps"]
        self._write(self._steps_before, within_epoch=False)
        if self._stopping:
            raise Interrupted(self._steps_before, self._signal_number)

    def _write(self, step: int, within_epoch: bool) -> None:
        # All workers read the variables: some are sums over the workers.
        arrays: dict[str, Any] = {
            f"{prefix}/{name}": keras.ops.convert_to_numpy(variable)
            for prefix, variables in (
                (VARIABLES, _variables(self.model)),
                (METRICS, _metrics(self.model)),
            )
            for name, variable in variables.items()
        }
        self._last_written = step
        if not self.writes:
            return
        states = {}
        for name, callback in self.callbacks.items():
            state = callback.get_state()
            own = {key for key, value in state.items() if isinstance(value, np.ndarray)}
            arrays |= {f"{name}/{key}": state[key] for key in own}
            states[name] = {key: value for key, value in state.items() if key not in own}
        checkpoint = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "within_epoch": within_epoch,
            "callbacks": states,
        }
        path = self.folder / f"step-{step:08d}"
        with atomic_path(path, overwrite=True, marker=CHECKPOINT_FILE) as partial:
            partial.mkdir()
            _write_arrays(arrays, partial / ARRAYS_FILE)
            content = json.dumps(checkpoint) + "\n"
            (partial / CHECKPOINT_FILE).write_text(content, encoding="utf-8")
            write_checksums(partial)
            for file in (*partial.iterdir(), partial):
                _sync(file)
        _sync(self.folder)
        for old in self.paths()[: -self.max_to_keep]:
            remove_folder(old)


@contextlib.contextmanager
def stopped_by_signals(checkpoints: CheckpointManager) -> Iterator[None]:
    """Makes the first SIGTERM or Ctrl-C stop training with a checkpoint.

    A second one ends it at once, by `KeyboardInterrupt` or `SystemExit`, as soon as Python runs:
    a call of TensorFlow comes to its end first. The command line does not wait for that. Does
    nothing in a thread, because only the main thread can handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signal_number, frame):
        if checkpoints.stopping:
            if signal_number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + signal_number)
        checkpoints.stop(signal_number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    """All variables but those of metrics, by names that are the same in every process."""
    metrics = {id(variable) for variable in model.metrics_variables}
    ordered = [*model.variables, *model.optimizer.variables]
    return _numbered(variable for variable in ordered if id(variable) not in metrics)


def _metrics(model: keras.Model) -> dict[str, keras.Variable]:
    """The variables of metrics, by names that are the same in every process."""
    return _numbered(model.metrics_variables)


def _numbered(variables: Iterable[keras.Variable]) -> dict[str, keras.Variable]:
    unique = {id(variable): variable for variable in variables}.values()
    return {f"{index:05d}": variable for index, variable in enumerate(unique)}


def _assign(
    variables: dict[str, keras.Variable], values: dict[str, np.ndarray], path: pathlib.Path
) -> None:
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    if shapes != {name: value.shape for name, value in values.items()}:
        raise InputError(f"{path} is the checkpoint of another model or of another optimizer")
    for name, variable in variables.items():
        variable.assign(values[name])


def _with_prefix(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays named `prefix`/NAME, by NAME."""
    start = f"{prefix}/"
    return {k.removeprefix(start): array for k, array in arrays.items() if k.startswith(start)}


def _write_arrays(arrays: dict[str, np.ndarray], file: pathlib.Path) -> None:
    try:
        save_file(arrays, file)
    except SafetensorError as error:
        # For instance a full disk, which is an OSError everywhere else.
        raise OSError(f"{file} cannot be written: {error}") from error


def _read_checkpoint(path: pathlib.Path) -> dict[str, Any]:
    checkpoint = read_json(path / CHECKPOINT_FILE)
    if checkpoint["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path} has format_version {checkpoint['format_version']}; this version reads "
            f"{FORMAT_VERSION}"
        )
    return checkpoint


def _sync(path: pathlib.Path) -> None:
    """Waits until a file or folder is on disk, so that a checkpoint survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
