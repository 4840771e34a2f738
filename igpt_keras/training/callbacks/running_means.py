"""Means of metrics over the latest steps, from Keras' running means."""

from typing import Any

import keras


class RunningMeans:
    """Counts training steps and averages metrics over the latest of them.

    Keras' logs hold running means over all steps since the epoch began. The mean over the
    steps j + 1 … k is (mean_k · k − mean_j · j) / (k − j). Keras keeps these sums in float32: in
    an epoch of 60,000 steps the mean of a single step is accurate to a percent.

    Attributes:
        step: Steps since the training began; 0 before `begin`.
        steps: The steps that the next `result` averages over.
    """

    def __init__(self):
        self.step = self.steps = 0
        self._begun = False
        self._sums: dict[str, float] = {}
        self._totals: dict[str, float] = {}
        self._steps_of_epoch = 0
        self._steps_before_fit = 0

    def begin(self, model: keras.Model) -> None:
        """Sets the first step to that of `model`, unless it is known. Call it as `fit` begins."""
        if not self._begun:
            self.step, self._begun = updates_done(model), True

    def update(self, batch: int, logs: dict[str, float]) -> int:
        """Adds the running means after `batch`, an index within the epoch of this `fit`.

        Returns:
            The steps since the last update.
        """
        steps_of_epoch = self._steps_before_fit + batch + 1
        new = steps_of_epoch - self._steps_of_epoch
        for name, mean in logs.items():
            total = float(mean) * steps_of_epoch
            change = total - self._totals.get(name, 0.0)
            self._sums[name] = self._sums.get(name, 0.0) + change
            self._totals[name] = total
        self._steps_of_epoch = steps_of_epoch
        self.step += new
        self.steps += new
        return new

    def end_epoch(self) -> None:
        """Starts the running means of a new epoch. Call it when an epoch ends."""
        self._totals = {}
        self._steps_of_epoch = self._steps_before_fit = 0

    def result(self) -> dict[str, float]:
        """Returns the means over the steps since the last call, {} where there were none."""
        means = {name: total / self.steps for name, total in self._sums.items() if self.steps}
        self._sums, self.steps = {}, 0
        return means

    def get_state(self) -> dict[str, Any]:
        """Returns what `set_state` needs to resume in another process, also within an epoch."""
        return {
            "step": self.step,
            "steps": self.steps,
            "sums": dict(self._sums),
            "totals": dict(self._totals),
            "steps_of_epoch": self._steps_of_epoch,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned; the next `fit` trains the rest of that epoch."""
        self.step, self.steps, self._begun = state["step"], state["steps"], True
        self._sums, self._totals = dict(state["sums"]), dict(state["totals"])
        self._steps_of_epoch = self._steps_before_fit = state["steps_of_epoch"]


def not_means(model: keras.Model, logs: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of Keras' logs that are no means over steps, such as an AUC."""
    each = [m for metric in model.metrics for m in getattr(metric, "metrics", [metric])]
    mean = keras.metrics.Mean
    means = {m.name for m in each if isinstance(m, mean) and type(m).result is mean.result}
    return {name: value for name, value in logs.items() if name not in means}


def updates_done(model: keras.Model) -> int:
    """Returns how often the weights of `model` were updated.

    With a dynamic loss scale this is less than the number of steps: a step whose gradient
    overflows updates nothing.
    """
    if hasattr(model, "jax_state_sync"):
        # JAX's trainer keeps the variables elsewhere within an epoch.
        model.jax_state_sync()
    iterations: Any = keras.ops.convert_to_numpy(model.optimizer.iterations)
    return int(iterations)
