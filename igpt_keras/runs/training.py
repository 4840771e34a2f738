"""Trainings: runs in a folder that they resume from."""

import abc
import contextlib
import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from igpt_keras.atomic import check_replaceable
from igpt_keras.errors import InputError
from igpt_keras.runs.callbacks import Callbacks, methods_of
from igpt_keras.runs.folder import (
    CHECKPOINTS,
    RUN_FILE,
    create_run,
    only_replacer,
    only_writer,
    read_run,
    update_options,
)
from igpt_keras.runs.options import LAYOUT, PLACES
from igpt_keras.runs.result import Result, write_result
from igpt_keras.runs.run import Run, SettingsT
from igpt_keras.tokenizers import ImageTokenizer
from igpt_keras.training.callbacks.checkpoint_manager import (
    CheckpointManager,
    Stateful,
    stopped_by_signals,
)
from igpt_keras.training.callbacks.divergence_detector import DivergenceDetector
from igpt_keras.training.callbacks.history_logger import HistoryLogger, Picture
from igpt_keras.training.callbacks.stopwatch import Stopwatch
from igpt_keras.training.strategies import (
    check_batch_size,
    is_chief,
    make_strategy,
    wait_for_all,
)
from igpt_keras.wording import plural


class Training(Run[SettingsT]):
    """A run that trains, in a folder that it resumes from.

    Attributes:
        tokenizer: The tokenizer of the images; None where one is trained.
        batch_size: Images in a step, of all devices together.
        total_steps: Steps of the training.
    """

    settings: Any
    tokenizer: ImageTokenizer | None = None
    total_steps: int

    @property
    def extent(self) -> str:
        """How much is trained, in words."""
        return f"{plural(self.total_steps, 'step')} of {plural(self.batch_size, 'image')}"

    def _begin(self, resume: bool, overwrite: bool) -> None:
        content = read_run(self.output, self.kind) if resume and self.output.exists() else None
        if content is None and self.is_chief:
            check_replaceable(self.output, overwrite, RUN_FILE)
            with only_replacer(self.output):
                # Raises before the work below where another process writes to the run.
                pass
        self._load()
        self.batch_size = self._global_batch_size()
        check_batch_size(self.strategy, self.batch_size)
        if content is not None:
            self.command = content["command"]
            self._check_unchanged(content, json.loads(json.dumps(self._options())))
        self._prepare(content)
        if content is None and self.is_chief:
            content = {"command": self.command, "options": self._options(), **self.fingerprints()}
            create_run(self.output, self.kind, content, self.tokenizer, overwrite)
        self._content = content

    def _options(self) -> dict[str, Any]:
        return {**self.data.to_json(), **dataclasses.asdict(self.settings)}

    def _check_unchanged(self, content: dict[str, Any], options: dict[str, Any]) -> None:
        """Raises `InputError` if `content` of run.json is of other settings, images or model."""
        # A run that an earlier version began lacks the options that it did not have.
        defaults = {field.name: field.default for field in dataclasses.fields(self.settings)}
        before = defaults | content["options"]
        for name in options:
            if name not in LAYOUT | PLACES and options[name] != before.get(name):
                raise InputError(
                    f"{self.output} began with {name}={before.get(name)}, got {options[name]}"
                )
        for name, fingerprint in self.fingerprints().items():
            if content[name] != fingerprint:
                given = " ".join(options["data"]) if name == "images" else options[name]
                raise InputError(
                    f"{name} {given} changed since {self.output} began, or is another one"
                )

    def _run(self, callbacks: Callbacks) -> Result:
        with only_writer(self.output) if self.is_chief else contextlib.nullcontext():
            self._check_not_replaced()
            if self.is_chief and self._content is not None:
                options = self.data.to_json()
                places = {name: options[name] for name in PLACES}
                if self._content["options"] != self._content["options"] | places:
                    update_options(self.output, places)
                    self._content["options"] |= places
            self.stopwatch = Stopwatch()
            with self.strategy.scope():
                model = self._build()
            result = self._train(model, callbacks)
            if self.is_chief:
                write_result(result, self.output)
        # One that had left would be missed by a chief that failed while it wrote, and came back.
        wait_for_all(self.strategy)
        return result

    def _check_not_replaced(self) -> None:
        """Raises `InputError` if another process replaced the run since it was opened."""
        if self.is_chief:
            now, opened = read_run(self.output, self.kind), json.loads(json.dumps(self._content))
            if now != {**now, **opened}:
                raise InputError(f"another process replaced {self.output} since it was opened")

    def remove_checkpoints(self) -> None:
        if (self.output / CHECKPOINTS).exists() and self.is_chief:
            with only_writer(self.output):
                shutil.rmtree(self.output / CHECKPOINTS)

    @functools.cached_property
    def strategy(self) -> tf.distribute.Strategy:
        """The strategy that the model is made under."""
        return cached_strategy(self.settings.strategy)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run: the only one, or the first of several workers."""
        return is_chief(self.strategy)

    @abc.abstractmethod
    def fingerprints(self) -> dict[str, Any]:
        """Returns what changes when the "images" change, or those of another option."""

    @abc.abstractmethod
    def _global_batch_size(self) -> int:
        """Returns the number of images in a step."""

    @abc.abstractmethod
    def _prepare(self, content: dict[str, Any] | None) -> None:
        """Prepares the images; sets `total_steps`.

        Args:
            content: That of the run that is resumed.
        """

    @abc.abstractmethod
    def _build(self) -> keras.Model:
        """Returns the model to train, under the strategy's scope."""

    @abc.abstractmethod
    def _train(self, model: Any, callbacks: Callbacks) -> Result:
        """Trains, measures and, in the chief, writes the model; returns the result."""

    def _checkpoints(
        self,
        callbacks: Callbacks,
        *,
        pictures: Callable[[keras.Model], dict[str, Picture]] | None = None,
        others: dict[str, Stateful] | None = None,
    ) -> CheckpointManager:
        """Returns the checkpoints of the run and the callbacks whose state is in them.

        Args:
            callbacks: Callbacks of the user; those with `on_record` get the history's records.
            pictures: As of `HistoryLogger`.
            others: Further callbacks with a state, by name.
        """
        history = HistoryLogger(
            self.output,
            self.settings.log_every,
            self.batch_size,
            pictures=pictures,
            listeners=methods_of(callbacks, "on_record"),
            writes=self.is_chief,
        )
        stateful = {**(others or {}), "journal": history, "stopwatch": self.stopwatch}
        if self.settings.stop_on_divergence:
            stateful["divergence_detector"] = DivergenceDetector(self.total_steps)
        return CheckpointManager(
            self.output / CHECKPOINTS,
            self.settings.checkpoint_every,
            max_to_keep=self.settings.max_checkpoints,
            writes=self.is_chief,
            callbacks=stateful,
        )

    @contextlib.contextmanager
    def _fitting(self, checkpoints: CheckpointManager):
        """Around training: a signal stops it, and a bad image is named."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.data.decoder.restore_errors())
            # Other workers would wait for one that stops.
            if not isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy):
                stack.enter_context(stopped_by_signals(checkpoints))
            yield


@functools.cache
def cached_strategy(name: str) -> tf.distribute.Strategy:
    """Returns `make_strategy(name)`, once: a process sets up its devices only once."""
    return make_strategy(name)
