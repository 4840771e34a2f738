"""The protocol of every experiment: `open` checks, `run` measures and writes a folder."""

import abc
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import keras
import tensorflow as tf

from igpt_keras.atomic import atomic_path, check_replaceable
from igpt_keras.errors import InputError
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.runs.callbacks import Callbacks, methods_of
from igpt_keras.runs.folder import (
    CHECKPOINTS,
    RESULT_FILE,
    RUN_FILE,
    create_run,
    only_replacer,
    only_writer,
    read_run,
    update_options,
)
from igpt_keras.runs.memory import MemoryPlan, out_of_memory_named, plan_memory
from igpt_keras.runs.options import LAYOUT, PLACES, DataOptions
from igpt_keras.runs.result import Result, read_result, write_result
from igpt_keras.tokenizers import ImageTokenizer, load_tokenizer
from igpt_keras.training.callbacks.checkpoint_manager import (
    CheckpointManager,
    Stateful,
    stopped_by_signals,
)
from igpt_keras.training.callbacks.divergence_detector import DivergenceDetector
from igpt_keras.training.callbacks.history_logger import HistoryLogger, Picture
from igpt_keras.training.callbacks.stopwatch import Stopwatch
from igpt_keras.training.strategies import check_batch_size, is_chief, make_strategy

if TYPE_CHECKING:
    from typing_extensions import Self

SettingsT = TypeVar("SettingsT")


class Run(abc.ABC, Generic[SettingsT]):
    """One experiment and its folder.

    Attributes:
        settings: Settings of the experiment.
        data: Images that it reads.
        output: Its folder.
        command: The command that made it, for its result.

    Example:
        ```python
        from igpt_keras.runs import Pretrain

        settings = Pretrain.Settings(
            image_size=8, num_layers=1, hidden_dim=16, num_heads=1, num_colors=8, steps=16
        )
        result = Pretrain.open(settings, "digits", "runs/tiny").run()
        print(result.metrics["validation_loss"])
        ```
    """

    kind: ClassVar[str]
    Settings: ClassVar[type]

    def __init__(self, settings: SettingsT, data: Any, output: pathlib.Path, command: str):
        self.settings = settings
        self.data = data
        self.output = output
        self.command = command
        self._finished: Result | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {os.fspath(self.output)!r}>"

    @classmethod
    def open(
        cls,
        settings: SettingsT,
        data: Any,
        output: str | pathlib.Path,
        *,
        resume: bool = False,
        overwrite: bool = False,
        command: str | None = None,
    ) -> "Self":
        """Checks that everything fits, and begins or resumes the run.

        Args:
            settings: Settings of the experiment, an instance of the class's `Settings`.
            data: Images: a source in the notation of `open_data`, several sources, or
                `DataOptions`.
            output: The run's folder.
            resume: Whether to continue what is in `output`. A run that is finished is not run
                again: `run` returns its result. Where `output` does not exist, the run begins.
            overwrite: Whether to replace an earlier run in `output`.
            command: The command that makes the run, for its result.

        Raises:
            InputError: Settings, model or data that do not fit each other, or a run in `output`
                that has other ones. No folder is made.
            FileExistsError: `output` exists, with neither `resume` nor `overwrite`.
        """
        command = command or f"igpt_keras.runs.{cls.__name__}"
        run = cls(settings, cls._data_options(data), pathlib.Path(output), command)
        if resume and (run.output / RESULT_FILE).exists():
            run._finished = read_result(run.output)
        else:
            run._begin(resume, overwrite)
        return run

    @classmethod
    def check(cls, settings: SettingsT, data: Any) -> None:
        """Checks settings, data and model as `open` does, without an output folder.

        Raises:
            InputError: They do not fit.
        """
        cls(settings, cls._data_options(data), pathlib.Path(), "")._load()

    @classmethod
    def _data_options(cls, data: Any) -> Any:
        return DataOptions.of(data)

    @property
    def finished(self) -> bool:
        """Whether the run was finished when it was opened."""
        return self._finished is not None

    def run(self, callbacks: Callbacks = ()) -> Result:
        """Runs the experiment to its end and writes its folder.

        Args:
            callbacks: Keras callbacks of the training; see `RunCallback` for what else they hear.

        Returns:
            The result, also when an earlier process finished the run.

        Raises:
            InputError: Another process writes to the folder.
            Interrupted: A signal stopped training; a checkpoint is written.
            Diverged: Training diverged.
        """
        if self._finished is None:
            self._finished = self._run(callbacks)
        self.remove_checkpoints()
        return self._finished

    def remove_checkpoints(self) -> None:
        """Removes the checkpoints, if any: nothing can resume the run then."""

    @abc.abstractmethod
    def _load(self) -> None:
        """Loads the model and opens the data; raises `InputError` where they do not fit."""

    @abc.abstractmethod
    def _begin(self, resume: bool, overwrite: bool) -> None:
        """Does what `open` does for a run that is not finished."""

    @abc.abstractmethod
    def _run(self, callbacks: Callbacks) -> Result:
        """Does what `run` does for a run that is not finished."""


class Measurement(Run[SettingsT]):
    """A run whose folder appears whole, with its result, at the end."""

    marker = RESULT_FILE

    def _begin(self, resume: bool, overwrite: bool) -> None:
        self._overwrite = overwrite
        check_replaceable(self.output, overwrite, self.marker)
        self._load()

    def _run(self, callbacks: Callbacks) -> Result:
        with atomic_path(self.output, self._overwrite, self.marker) as partial:
            partial.mkdir()
            result = self._measure(partial, callbacks)
            write_result(result, partial)
        return result

    @abc.abstractmethod
    def _measure(self, folder: pathlib.Path, callbacks: Callbacks) -> Result:
        """Returns the result; writes what else belongs into the run's folder."""


class Training(Run[SettingsT]):
    """A run that trains a model, in a folder that it resumes from.

    Attributes:
        tokenizer: The tokenizer of the images.
        memory: What training needs of the memory.
        batch_size: Images in a step, of all devices together.
        total_steps: Steps of the training.
    """

    settings: Any
    tokenizer: ImageTokenizer
    memory: MemoryPlan
    total_steps: int

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
            tokenizer = load_tokenizer(self.output)
            if tokenizer is None:
                raise InputError(f"{self.output} is damaged: its tokenizer is missing")
            self.tokenizer = tokenizer
        else:
            self.tokenizer = self._find_tokenizer()
        self._prepare()
        self._choose_micro_batches(content)
        if content is None and self.is_chief:
            content = {"command": self.command, "options": self._options(), **self.fingerprints()}
            create_run(self.output, self.kind, content, self.tokenizer, overwrite)
        self._content = content

    def _options(self) -> dict[str, Any]:
        return {**self.data.to_json(), **dataclasses.asdict(self.settings)}

    def _choose_micro_batches(self, content: dict[str, Any] | None) -> None:
        """Decides on `micro_batches`, which "auto" leaves to the memory or to the resumed run."""
        before = None if content is None else content["options"]["micro_batches"]
        self.memory = plan_memory(
            self._config(), self.settings, self.batch_size, self.strategy, before
        )
        chosen = self.memory.layout.micro_batches
        self.settings = dataclasses.replace(self.settings, micro_batches=chosen)

    @property
    def evaluation_batch_size(self) -> int:
        """Images in a batch of an evaluation, which fits into memory if training does."""
        return max(self.batch_size // self.settings.micro_batches, 1)

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
                given = options["model"] if name == "model" else " ".join(options["data"])
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
            with out_of_memory_named(self.memory):
                with self.strategy.scope():
                    model = self._build()
                result = self._train(model, callbacks)
            if self.is_chief:
                write_result(result, self.output)
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
        """Returns what changes when the "images", or the "model" to begin with, change."""

    @abc.abstractmethod
    def _global_batch_size(self) -> int:
        """Returns the number of images in a step."""

    @abc.abstractmethod
    def _config(self) -> ImageGPTConfig:
        """Returns the sizes of the model."""

    @abc.abstractmethod
    def _find_tokenizer(self) -> ImageTokenizer:
        """Returns the tokenizer of a new run."""

    @abc.abstractmethod
    def _prepare(self) -> None:
        """Prepares the images; sets `total_steps`."""

    @abc.abstractmethod
    def _build(self) -> GenerativeModel:
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

    def _recipe(self, checkpoints: CheckpointManager, callbacks: Callbacks) -> dict[str, Any]:
        """Returns the arguments that both recipes of `igpt_keras.training` take."""
        names = ("learning_rate", "clip_norm", "remat", "micro_batches", "seed")
        return {
            **{name: getattr(self.settings, name) for name in names},
            "checkpoints": checkpoints,
            "callbacks": [*checkpoints.callbacks.values(), *callbacks],
            "verbose": 0,
        }

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
