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
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial, TrialStatus

from igpt_keras.atomic import atomic_path, remove_leftovers
from igpt_keras.errors import Diverged, InputError
from igpt_keras.runs.folder import only_writer
from igpt_keras.training.strategies import is_chief
from tuning.events import write_session
from tuning.experiments import Experiment
from tuning.oracle import LargeToSmallOracle
from tuning.rates import RATE, Rates

RUN_FOLDER = "run"
EVENTS_FOLDER = "events"
SECONDS = "seconds"


class _Failed(keras_tuner.errors.FatalError):
    """An error in a trial; others than `FatalError` keras-tuner notes and goes on."""


class LearningRateSearch(keras_tuner.Tuner):
    """Searches the learning rate of an experiment from large to small.

    `search()` takes no data: the experiment has them. Called again, in another process after
    the first was killed, it goes on: what is finished is not run again. The folder
    `directory`/`project_name` holds keras-tuner's own files and of every trial `trial_ID/run`,
    the folder of its run, and `trial_ID/events`, for the HParams page of TensorBoard.

    Of a trial that diverged, status is "FAILED", score NaN, and its message says what was seen;
    `get_best_models` and `get_best_hyperparameters` leave it out, and are empty where every
    rate diverged. Any other error ends the search, as it is.

    Args:
        experiment: what a trial trains.
        rates: to try; those of the experiment unless given.
        tolerance: by how much the objective may be worse than that of the trial before it
            without ending the search, in its unit.
        directory: where the search is kept.
        project_name: its folder in there.
        overwrite: whether an earlier search there is removed.

    Raises:
        InputError: the folder holds a search with other settings, or is to be removed while
            another process searches in it.
    """

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
        self.writes = is_chief(experiment.strategy)
        oracle = LargeToSmallOracle(
            experiment.objective, rates or experiment.rates(), tolerance, writes=self.writes
        )
        experiment.check(oracle.get_space())
        folder = pathlib.Path(directory, project_name)
        if overwrite and folder.exists():
            # Raises where another process searches.
            with only_writer(folder):
                pass
        super().__init__(
            oracle,
            directory=os.fspath(directory),
            project_name=project_name,
            overwrite=overwrite and self.writes,
        )

    def search(self, *, verbose: int = 1) -> None:
        """Runs trials until every search of the oracle is at its end.

        Args:
            verbose: 1 to say when a trial begins and ends.

        Raises:
            InputError: another process searches in the folder.
            Interrupted: a signal told a trial to stop; its state is written.
        """
        self.oracle.verbose = verbose
        with only_writer(self.project_dir) if self.writes else contextlib.nullcontext():
            if os.path.exists(self._get_tuner_fname()):
                # Another process may have gone on since this one has read it.
                self.reload()
            try:
                super().search()
            except _Failed as failed:
                raise failed.__cause__ from None

    def on_search_begin(self) -> None:
        # keras-tuner goes on with a search that is saved, and saves it when a trial has ended.
        self.save()

    def run_trial(self, trial: Trial) -> dict[str, float]:
        """Trains with the trial's values; the objective, and the seconds since it went on."""
        # Frees the model of the trial before.
        keras.utils.clear_session()
        if self.writes:
            remove_leftovers(self.get_trial_dir(trial.trial_id))
        settings = self.experiment.settings(trial.hyperparameters)
        objective = self.experiment.objective
        start = time.monotonic()
        try:
            value = self.experiment.run(settings, self.run_folder(trial), [_Hooks(self, trial)])
        except Diverged as diverged:
            trial.message = str(diverged)
            if self.writes:
                self.experiment.remove_checkpoints(self.run_folder(trial))
            value = -math.inf if objective.direction == "max" else math.inf
        except Exception as error:
            raise _Failed from error
        return {objective.name: value, SECONDS: time.monotonic() - start}

    def on_trial_end(self, trial: Trial) -> None:
        super().on_trial_end(trial)
        self._write_events()

    def on_search_end(self) -> None:
        # Of a trial after whose end the process was killed.
        self._write_events()

    def run_folder(self, trial: Trial) -> pathlib.Path:
        """The folder of the trial's run."""
        return pathlib.Path(self.get_trial_dir(trial.trial_id), RUN_FOLDER)

    def load_model(self, trial: Trial) -> Any:
        """What the trial trained, with the weights of its end."""
        return self.experiment.load(self.run_folder(trial))

    def save(self) -> None:
        self.oracle.save()
        if self.writes:
            with atomic_path(self._get_tuner_fname(), overwrite=True) as partial:
                super(BaseTuner, self).save(str(partial))

    def get_state(self) -> dict[str, Any]:
        space = keras_tuner.HyperParameters()
        space.Choice(RATE, self.oracle.rates.values())
        settings = self.experiment.described(space)
        return {
            "settings": settings,
            "hyperparameters": space.get_config()["space"],
            "images": self.experiment.images.fingerprints(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on with the search of `state`.

        Raises:
            InputError: it has other settings.
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

    def _populate_initial_space(self):
        space = self.oracle.get_space()
        self.experiment.settings(space)
        self.oracle.update_space(space)


class _Hooks(keras.callbacks.Callback):
    """Calls what a keras-tuner `Tuner` may override: `on_batch_end`, `on_epoch_end`, …"""

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
