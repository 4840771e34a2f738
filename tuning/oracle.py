"""The paper's large-to-small search as an oracle of keras-tuner."""

import dataclasses
import itertools
import math
import os
from collections.abc import Iterator
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError
from tuning.rates import RATE, UNFINISHED, Rates, ending


@dataclasses.dataclass(frozen=True)
class Search:
    """The trials of one combination of the other hyperparameters.

    Attributes:
        others: values of the other hyperparameters.
        trials: from the largest rate to the smallest.
        ending: as `tuning.rates.ending`.
        best: the trial of the best score, of equal ones the first; None where none completed.
    """

    others: dict[str, Any]
    trials: list[Trial]
    ending: str
    best: Trial | None


class LargeToSmallOracle(keras_tuner.Oracle):
    """Proposes learning rates from large to small until the final loss increases.

    The rate is the hyperparameter `learning_rate`. Others ride along: for each combination of
    their values, in the order of a grid, the rates are searched anew. (The values of a `Float`
    or `Int` are those that keras-tuner's grid search takes.)

    A trial whose score is not finite has diverged: it counts as worse than any finite one, its
    status is "FAILED", and it is never among the best. Any other failure of a trial is an error,
    which ends the search; started again, it begins with that trial.

    Trials are saved as they begin and end, each file whole or not at all.

    Args:
        objective: name, or `keras_tuner.Objective`, of the final figure that a trial returns.
        rates: to try.
        tolerance: by how much a score may be worse than the one before it, in its unit.
        hyperparameters: others, declared in advance.
        writes: False in workers that are not the chief.

    Raises:
        InputError: several objectives, or a negative tolerance.
    """

    def __init__(
        self,
        objective: str | keras_tuner.Objective,
        rates: Rates | None = None,
        tolerance: float = 0.0,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        writes: bool = True,
    ):
        if not tolerance >= 0:
            raise InputError(f"tolerance must be 0 or more, got {tolerance}")
        if not isinstance(objective, str | keras_tuner.Objective):
            raise InputError(f"objective must be one, got {objective}")
        self.rates = rates or Rates()
        self.tolerance = tolerance
        self.writes = writes
        space = hyperparameters or keras_tuner.HyperParameters()
        space.Choice(RATE, self.rates.values())
        super().__init__(
            objective,
            hyperparameters=space,
            # Trials that diverge are no reason to stop.
            max_consecutive_failed_trials=None,
        )

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The next rate of the first search that is not at its end."""
        waiting = False
        for search in self.searches():
            if any(trial.status == TrialStatus.RUNNING for trial in search.trials):
                waiting = True
            elif search.ending == UNFINISHED:
                rate = self.rates.values()[len(search.trials)]
                return {"status": TrialStatus.RUNNING, "values": {**search.others, RATE: rate}}
        return {"status": TrialStatus.IDLE if waiting else TrialStatus.STOPPED}

    def searches(self) -> list[Search]:
        """One for each combination of the other hyperparameters, in their order."""
        searches = []
        for others in self._grid():
            trials = [
                trial
                for _, trial in sorted(self.trials.items())
                if {k: v for k, v in trial.hyperparameters.values.items() if k != RATE} == others
            ]
            ended = [trial for trial in trials if trial.status != TrialStatus.RUNNING]
            losses = [self._loss(trial) for trial in ended]
            how = ending(losses, self.rates, self.tolerance)
            completed = [t for t in ended if t.status == TrialStatus.COMPLETED]
            best = min(completed, key=self._loss, default=None)
            searches.append(Search(others, trials, how, best))
        return searches

    def score_trial(self, trial: Trial) -> None:
        """The last value of the objective, or NaN, by which keras-tuner marks a failure."""
        score = trial.metrics.get_last_value(self.objective.name)
        trial.score = score if math.isfinite(score) else math.nan

    @keras_tuner.synchronized
    def end_trial(self, trial: Trial) -> None:
        """As in keras-tuner, but an error ends the search."""
        if trial.status != TrialStatus.COMPLETED:
            raise keras_tuner.errors.FatalRuntimeError(
                f"trial {trial.trial_id} failed and did not diverge:\n{trial.message}"
            )
        super().end_trial(trial)

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """The best of those that completed; [] where every rate diverged."""
        best = super().get_best_trials(num_trials)
        return [trial for trial in best if trial.status == TrialStatus.COMPLETED]

    def get_state(self) -> dict[str, Any]:
        rates = dataclasses.asdict(self.rates)
        return {**super().get_state(), "rates": rates, "tolerance": self.tolerance}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state`.

        Raises:
            InputError: it is that of a search with other rates or another tolerance.
        """
        ours = self.get_state()
        for name in ("rates", "tolerance"):
            if state[name] != ours[name]:
                raise InputError(
                    f"{self._project_dir} holds a search with {name} {_shown(state[name])}, "
                    f"got {_shown(ours[name])}; choose another folder"
                )
        super().set_state(state)

    def save(self) -> None:
        if self.writes:
            with atomic_path(self._get_oracle_fname(), overwrite=True) as partial:
                super(keras_tuner.Oracle, self).save(str(partial))

    def reload(self) -> None:
        super().reload()
        # The files of the trials are written before that of the oracle.
        self.trials = dict(sorted(self.trials.items()))
        running = [i for i, trial in self.trials.items() if trial.status == TrialStatus.RUNNING]
        self.start_order = list(self.trials)
        self.end_order = [trial_id for trial_id in self.trials if trial_id not in running]
        self._retry_queue = running

    def _save_trial(self, trial):
        if self.writes:
            file = os.path.join(self._get_trial_dir(trial.trial_id), "trial.json")
            with atomic_path(file, overwrite=True) as partial:
                trial.save(str(partial))

    def _loss(self, trial):
        """What is minimized, infinite where the trial diverged."""
        if trial.status != TrialStatus.COMPLETED:
            return math.inf
        return -trial.score if self.objective.direction == "max" else trial.score

    def _grid(self) -> Iterator[dict[str, Any]]:
        """Values of the active hyperparameters but the rate, in the order they were declared."""
        space = self.get_space()
        others = [hp for hp in space.space if hp.name != RATE]
        seen = []
        for values in itertools.product(*(hp.values for hp in others)):
            space.values = {hp.name: value for hp, value in zip(others, values, strict=True)}
            space.ensure_active_values()
            active = {k: v for k, v in space.values.items() if k != RATE}
            if active not in seen:
                seen.append(active)
                yield active


def _shown(setting):
    if isinstance(setting, float):
        return f"{setting:g}"
    return ", ".join(f"{name}={value}" for name, value in setting.items())
