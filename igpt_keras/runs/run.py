"""The protocol of every experiment: `open` checks, `run` measures and writes a folder."""

import abc
import os
import pathlib
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from igpt_keras.atomic import atomic_path, check_replaceable
from igpt_keras.runs.callbacks import Callbacks
from igpt_keras.runs.folder import RESULT_FILE
from igpt_keras.runs.options import DataOptions
from igpt_keras.runs.result import Result, read_result, write_result

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
