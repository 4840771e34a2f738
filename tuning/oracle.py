"""The paper's search for a learning rate, from large to small, as an oracle of keras-tuner."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from igpt_keras.errors import InputError
from tuning.keras_tuner_internals import AtomicOracle
from tuning.rates import RATE, UNFINISHED, Rates, ending


@dataclasses.dataclass(frozen=True)
class Search:
    """The trials of one combination of the other hyperparameters.

    Attributes:
        others: Values of the other hyperparameters.
        trials: The trials, from the largest rate to the smallest.
        ending: How the search ended; see `tuning.rates.ending`.
        best: The trial with the best score, the first of equal ones; None if none completed.
    """

    others: dict[str, Any]
    trials: list[Trial]
    ending: str
    best: Trial | None


class LargeToSmallOracle(AtomicOracle):
    """Proposes learning rates from large to small until the final loss increases.

    The rate is the hyperparameter `learning_rate`. For each combination of the values of other
    hyperparameters, in the order of a grid, the rates are searched anew. A `Float` or `Int` takes
    the values that keras-tuner's grid search takes.

    A trial whose score is not finite has diverged: it counts as worse than any finite one, its
    status is "FAILED", and it is never among the best. Any other failure of a trial is an error
    that ends the search; a search that is started again begins with that trial.

    Args:
        objective: Name, or `keras_tuner.Objective`, of the final metric that a trial returns.
        rates: The rates to try.
        tolerance: How much worse a score may be than the previous one without ending the search,
            in the unit of the score.
        hyperparameters: Other hyperparameters, declared in advance.
        writes: False in workers that are not the chief.

    Raises:
        InputError: Several objectives, or a negative tolerance.

    Example:
        ```python
        import keras_tuner
        from tuning import LargeToSmallOracle, Rates

        class Search(keras_tuner.Tuner):
            def run_trial(self, trial):
                return (trial.hyperparameters.get("learning_rate") - 0.003) ** 2

        search = Search(LargeToSmallOracle("val_loss", Rates(0.01)), directory="runs")
        search.search()
        ```
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
            raise InputError(f"objective must be a single one, got {objective}")
        self.rates = rates or Rates()
        self.tolerance = tolerance
        space = hyperparameters or keras_tuner.HyperParameters()
        space.Choice(RATE, self.rates.values())
        super().__init__(
            objective,
            hyperparameters=space,
            # Trials that diverge do not end the search.
            max_consecutive_failed_trials=None,
            writes=writes,
        )

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the next rate of the first search that has not ended."""
        waiting = False
        for search in self.searches():
            if any(trial.status == TrialStatus.RUNNING for trial in search.trials):
                waiting = True
            elif search.ending == UNFINISHED:
                rate = self.rates.values()[len(search.trials)]
                return {"status": TrialStatus.RUNNING, "values": {**search.others, RATE: rate}}
        return {"status": TrialStatus.IDLE if waiting else TrialStatus.STOPPED}

    def searches(self) -> list[Search]:
        """Returns one search for each combination of the other hyperparameters, in their order."""
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
        """Sets the score: the last value of the objective, or NaN, which means failed."""
        score = trial.metrics.get_last_value(self.objective.name)
        trial.score = score if math.isfinite(score) else math.nan

    @keras_tuner.synchronized
    def end_trial(self, trial: Trial) -> None:
        """Ends a trial. Unlike in keras-tuner, an error ends the search."""
        if trial.status != TrialStatus.COMPLETED:
            raise keras_tuner.errors.FatalRuntimeError(
                f"trial {trial.trial_id} failed and did not diverge:\n{trial.message}"
            )
        super().end_trial(trial)

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """Returns the best of the completed trials; [] if every rate diverged."""
        best = super().get_best_trials(num_trials)
        return [trial for trial in best if trial.status == TrialStatus.COMPLETED]

    def get_state(self) -> dict[str, Any]:
        """Returns the state to resume from."""
        rates = dataclasses.asdict(self.rates)
        return {**super().get_state(), "rates": rates, "tolerance": self.tolerance}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes from a state.

        Raises:
            InputError: The state is that of a search with other rates or another tolerance.
        """
        ours = self.get_state()
        for name in ("rates", "tolerance"):
            if state[name] != ours[name]:
                raise InputError(
                    f"{self.folder} holds a search with {name} {_shown(state[name])}, "
                    f"got {_shown(ours[name])}; choose another folder"
                )
        super().set_state(state)

    def reload(self) -> None:
        """Resumes from the files of the oracle and of its trials."""
        super().reload()
        # The files of trials are written before that of the oracle and are newer after a kill.
        self.trials = dict(sorted(self.trials.items()))
        running = [i for i, trial in self.trials.items() if trial.status == TrialStatus.RUNNING]
        orders = {
            "start_order": list(self.trials),
            "end_order": [trial_id for trial_id in self.trials if trial_id not in running],
            "retry_queue": running,
        }
        super().set_state({**super().get_state(), **orders})

    def _loss(self, trial):
        """Returns what is minimized: infinite if the trial diverged."""
        if trial.status != TrialStatus.COMPLETED:
            return math.inf
        return -trial.score if self.objective.direction == "max" else trial.score

    def _grid(self) -> Iterator[dict[str, Any]]:
        """Yields the values of all active hyperparameters except the rate, in order."""
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
