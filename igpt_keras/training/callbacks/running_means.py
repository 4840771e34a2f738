"""Means over the latest steps, out of Keras' running means."""

from typing import Any

import keras


class RunningMeans:
    """Counts the steps of a training, and gives the means of its figures over the latest of them.

    The logs of Keras hold running means over all steps since the epoch began. The mean over
    the steps j + 1 … k is (mean_k · k − mean_j · j) / (k − j). Keras keeps these sums in
    float32: over an epoch of 60,000 steps the mean of a single step is right to a percent.

    Attributes:
        step: steps done since the training began, None before `begin`.
        steps: how many of them `result` would speak of.
    """

    def __init__(self):
        self.step: int | None = None
        self.steps = 0
        self._sums: dict[str, float] = {}
        self._totals: dict[str, float] = {}
        self._steps_of_epoch = 0
        self._steps_before_fit = 0

    def begin(self, model: keras.Model) -> None:
        """To be called when `fit` begins: learns where it starts, if that is not known yet."""
        if self.step is None:
            self.step = updates_done(model)

    def update(self, batch: int, logs: dict[str, float]) -> int:
        """Hears of the running means after `batch`, an index within `fit`'s epoch.

        Returns: how many steps that are more than before.
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
        """To be called at the end of an epoch: running means start anew."""
        self._totals = {}
        self._steps_of_epoch = self._steps_before_fit = 0

    def result(self) -> dict[str, float]:
        """The means over the steps since the last call; {} if there were none."""
        means = {name: total / self.steps for name, total in self._sums.items() if self.steps}
        self._sums, self.steps = {}, 0
        return means

    def get_state(self) -> dict[str, Any]:
        """What `set_state` needs to go on in another process, also within an epoch."""
        return {
            "step": self.step,
            "steps": self.steps,
            "sums": dict(self._sums),
            "totals": dict(self._totals),
            "steps_of_epoch": self._steps_of_epoch,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from `get_state`; the next `fit` is for what was left of the epoch."""
        self.step, self.steps = state["step"], state["steps"]
        self._sums, self._totals = dict(state["sums"]), dict(state["totals"])
        self._steps_of_epoch = self._steps_before_fit = state["steps_of_epoch"]


def updates_done(model: keras.Model) -> int:
    """How often the weights of `model` were changed.

    With a dynamic loss scale these are fewer than the steps: where a gradient overflows, the
    step changes no weight.
    """
    if hasattr(model, "jax_state_sync"):
        # Within an epoch, JAX's trainer keeps the variables elsewhere.
        model.jax_state_sync()
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))
