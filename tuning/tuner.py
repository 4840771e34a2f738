"""A tuner of keras-tuner whose trials are runs of igpt-keras."""

import contextlib
import json
import math
import os
import pathlib
import time
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from igpt_keras.atomic import remove_leftovers
from igpt_keras.errors import Diverged, InputError
from igpt_keras.json_files import write_json
from igpt_keras.runs.folder import only_writer
from igpt_keras.training.strategies import is_chief
from tuning.events import write_session
from tuning.experiments import Experiment
from tuning.keras_tuner_internals import OneFileTuner, asks_another_process
from tuning.oracle import LargeToSmallOracle
from tuning.rates import RATE, Rates

RUN_FOLDER = "run"
EVENTS_FOLDER = "events"
SECONDS = "seconds"
# Between two questions of a worker that waits for the trials of others.
PAUSE = 1.0


class _Failed(keras_tuner.errors.FatalError):
    """Carries an error out of a trial: keras-tuner continues after any but a `FatalError`."""

    def __init__(self, error: Exception):
        super().__init__(str(error))
        self.error = error


class LearningRateSearch(OneFileTuner):
    """Searches the learning rate of an experiment from large to small.

    `search()` takes no data: the experiment has them. A search that was interrupted or killed
    resumes when it is constructed again with the same settings; finished trials are not repeated.
    The folder `directory`/`project_name` holds keras-tuner's own files and, for every trial,
    `trial_ID/run`, the folder of its run, and `trial_ID/events`, for TensorBoard's HParams page.

    A trial that diverged has the status "FAILED", the score NaN and a message that says why.
    `get_best_models` and `get_best_hyperparameters` leave it out, and are empty if every rate
    diverged. Any other error ends the search and is raised unchanged.

    With keras-tuner's variables `KERASTUNER_ORACLE_IP`, `KERASTUNER_ORACLE_PORT` and
    `KERASTUNER_TUNER_ID`, several processes search in one folder: the one whose ID is "chief"
    chooses the trials and trains none, the others train. The rates of one combination of other
    hyperparameters follow each other; combinations are searched side by side.

    Args:
        experiment: What a trial trains.
        rates: The rates to try. Default: those of the experiment.
        tolerance: How much worse the objective of a trial may be than the previous one's without
            ending the search, in its unit.
        directory: Folder of searches.
        project_name: Name of this search's folder in `directory`.
        overwrite: Whether to remove an earlier search there.

    Raises:
        InputError: The folder holds a search with other settings, or it is to be removed while
            another process searches in it.

    Example:
        ```python
        from igpt_keras.runs.pretrain import Settings
        from tuning import LearningRateSearch, PretrainExperiment

        settings = Settings(preset="image_gpt_small", epochs=10)
        search = LearningRateSearch(PretrainExperiment("folder:photos", settings))
        search.search()
        model = search.get_best_models()[0]
        ```
    """

    oracle: LargeToSmallOracle

    def __init__(
        self,
        experiment: Experiment,
        rates: Rates | None = None,
        tolerance: float = 0.0,
        *,
        directory: str | os.PathLike = ".",
        project_name: str = "tuned",
        overwrite: bool = False,
    ):
        self.experiment = experiment
        self._is_worker_of_chief = asks_another_process()
        self._leads_trial = is_chief(experiment.strategy)
        self.writes = self._leads_trial and not self._is_worker_of_chief
        self._idle = False
        oracle = LargeToSmallOracle(
            experiment.objective, rates or experiment.rates(), tolerance, writes=self.writes
        )
        experiment.check(oracle.get_space())
        space = oracle.get_space()
        experiment.settings(space)
        oracle.update_space(space)
        folder = pathlib.Path(directory, project_name)
        if overwrite and folder.exists():
            # Raises if another process searches there.
            with only_writer(folder):
                pass
        super().__init__(
            oracle,
            directory=os.fspath(directory),
            project_name=project_name,
            overwrite=overwrite and self.writes,
        )

    def search(self, *, verbose: int = 1) -> None:
        """Runs trials until every search of the oracle has ended.

        Args:
            verbose: 1 to print when a trial begins and ends.

        Raises:
            InputError: Another process searches in the folder.
            Interrupted: A signal stopped a trial; its checkpoint is written.
        """
        self.oracle.verbose = verbose
        with only_writer(self.project_dir) if self.writes else contextlib.nullcontext():
            if self.file.exists() and not self._is_worker_of_chief:
                # Another process may have continued the search since this one read it.
                self.reload()
            try:
                super().search()
            except _Failed as failed:
                raise failed.error from None
            # keras-tuner's chief of several processes does not call its hooks.
            self._write_events()

    def pre_create_trial(self) -> None:
        """Waits if the last answer to a worker was that it has to wait for the trials of others."""
        if self._idle:
            time.sleep(PAUSE)
        self._idle = True

    def on_trial_begin(self, trial: Trial) -> None:
        """Notes that there is work."""
        super().on_trial_begin(trial)
        self._idle = False

    def on_search_begin(self) -> None:
        """Saves the search, so that it can be resumed before the first trial has ended."""
        self.save()

    def run_trial(self, trial: Trial) -> dict[str, float]:
        """Trains with the trial's values; returns the objective and the seconds it took."""
        # Frees the model of the previous trial.
        keras.utils.clear_session()
        if self._leads_trial:
            remove_leftovers(self.get_trial_dir(trial.trial_id))
        settings = self.experiment.settings(trial.hyperparameters)
        objective = self.experiment.objective
        start = time.monotonic()
        try:
            value = self.experiment.run(settings, self.run_folder(trial), [_Hooks(self, trial)])
        except Diverged as diverged:
            trial.message = str(diverged)
            value = -math.inf if objective.direction == "max" else math.inf
        except Exception as error:
            raise _Failed(error) from error
        return {objective.name: value, SECONDS: time.monotonic() - start}

    def on_trial_end(self, trial: Trial) -> None:
        """Writes the trial for TensorBoard."""
        super().on_trial_end(trial)
        self._write_events()

    def run_folder(self, trial: Trial) -> pathlib.Path:
        """Returns the folder of the trial's run."""
        return pathlib.Path(self.get_trial_dir(trial.trial_id), RUN_FOLDER)

    def load_model(self, trial: Trial) -> Any:
        """Returns what the trial trained."""
        return self.experiment.load(self.run_folder(trial))

    def save(self) -> None:
        """Saves the search, each file whole or not at all."""
        if not self._is_worker_of_chief:
            self.oracle.save()
        if self.writes:
            write_json(self.file, self.get_state())

    def get_state(self) -> dict[str, Any]:
        """Returns the settings that must stay the same when the search is resumed."""
        space = keras_tuner.HyperParameters()
        space.Choice(RATE, self.oracle.rates.values())
        settings = self.experiment.describe(space)
        return {
            "settings": settings,
            "hyperparameters": space.get_config()["space"],
            "images": self.experiment.data.fingerprints(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Checks that the search of `state` is this one.

        Raises:
            InputError: It has other settings.
        """
        ours = json.loads(json.dumps(self.get_state()))
        before, now = state["settings"], ours["settings"]
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                raise InputError(
                    f"{self.project_dir} holds a search with {name}={before.get(name)}, got "
                    f"{now.get(name)}; choose another folder"
                )
        for name in ("hyperparameters", "images"):
            if state[name] != ours[name]:
                raise InputError(
                    f"{self.project_dir} holds a search over other {name}; choose another folder"
                )

    def _write_events(self):
        if not self.writes:
            return
        for trial in self.oracle.trials.values():
            folder = pathlib.Path(self.get_trial_dir(trial.trial_id), EVENTS_FOLDER)
            if trial.status != TrialStatus.RUNNING and not folder.exists():
                write_session(folder, trial, self.experiment.objective.name)


class _Hooks(keras.callbacks.Callback):
    """Calls the hooks of a keras-tuner `Tuner`: `on_batch_end`, `on_epoch_end`, …."""

    def __init__(self, tuner: keras_tuner.Tuner, trial: Trial):
        super().__init__()
        self.tuner = tuner
        self.trial = trial

    def on_epoch_begin(self, epoch, logs=None):
        self.tuner.on_epoch_begin(self.trial, self.model, epoch, logs=logs)

    def on_train_batch_begin(self, batch, logs=None):
        self.tuner.on_batch_begin(self.trial, self.model, batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self.tuner.on_batch_end(self.trial, self.model, batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self.tuner.on_epoch_end(self.trial, self.model, epoch, logs=logs)
