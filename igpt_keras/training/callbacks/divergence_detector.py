"""Stops training that diverged: the sign of too high a learning rate (paper, section 3.4)."""

import dataclasses
import math
import statistics
from typing import Any

from igpt_keras.errors import Diverged, InputError
from igpt_keras.training.callbacks.callback import Callback, Logs
from igpt_keras.training.callbacks.running_means import RunningMeans

STANDARD_ERRORS = 5.0
# Longer windows would hide a spike behind the early fall of the loss.
MAX_WINDOW = 100
MIN_PATIENCE, PATIENCE_FRACTION = 5, 0.1
# Differences of losses from which the noise can be estimated.
MIN_DIFFERENCES = 16
# The median of the first losses is the loss that training began with.
FIRST_LOSSES = 5


@dataclasses.dataclass
class LossCurve:
    """The mean loss of windows of steps, compared with the lowest mean so far.

    Attributes:
        tolerance: As in `DivergenceDetector`.
        beginning: The first losses, up to `FIRST_LOSSES`.
        lowest: The lowest mean of a window; at first the median of `beginning`.
        lowest_losses: The number of losses that `lowest` is the mean of.
        noise: The variance of a loss, from differences of consecutive losses.
        differences: The number of differences behind `noise`; old ones fade.
        above: How many of the latest windows, without a gap, lie above the lowest.
        steps: Steps in the open window.
        losses: Losses in the open window; fewer than steps with `steps_per_execution`.
        total: Sum of the losses over the steps of the open window.
        changes: Differences of consecutive losses in the open window.
        squares: Sum of the squares of these differences.
        previous: The last loss.
    """

    tolerance: float
    beginning: list[float] = dataclasses.field(default_factory=list)
    lowest: float | None = None
    lowest_losses: int = 1
    noise: float = 0.0
    differences: float = 0.0
    above: int = 0
    steps: int = 0
    losses: int = 0
    total: float = 0.0
    changes: int = 0
    squares: float = 0.0
    previous: float | None = None

    def add(self, loss: float, steps: int) -> None:
        """Adds the mean loss of `steps` steps."""
        if len(self.beginning) < FIRST_LOSSES:
            self.beginning.append(loss)
        if self.previous is not None:
            self.changes += 1
            self.squares += (loss - self.previous) ** 2
        self.previous = loss
        self.steps += steps
        self.losses += 1
        self.total += loss * steps

    def close_window(self) -> float:
        """Compares the open window with the lowest one, starts another, and returns its mean."""
        mean = self.total / self.steps
        first = statistics.median(self.beginning)
        if self.lowest is None:
            self.lowest = first
        error = math.sqrt(self.noise * (1 / self.losses + 1 / self.lowest_losses))
        learned = first - self.lowest
        margin = max(self.tolerance * max(abs(self.lowest), learned), STANDARD_ERRORS * error)
        if self.differences >= MIN_DIFFERENCES and mean > self.lowest + margin:
            # The differences within a spike are not ordinary noise and are left out of it.
            self.above += 1
        else:
            self.above = 0
            self._update_noise()
        if mean < self.lowest:
            self.lowest, self.lowest_losses = mean, self.losses
        self.steps = self.losses = self.changes = 0
        self.total = self.squares = 0.0
        return mean

    def _update_noise(self) -> None:
        # A tenth of the past fades with every window, but enough stays for an estimate.
        kept = min(self.differences, max(MIN_DIFFERENCES, 9 * self.changes))
        self.differences = kept + self.changes
        if self.differences:
            self.noise = (self.noise * kept + self.squares / 2) / self.differences


class DivergenceDetector(Callback):
    """Raises `Diverged` when the loss is not finite, or spiked and does not recover.

    The mean loss of every `window` steps is compared with the lowest such mean so far (or with
    the median of the first five losses where that is lower). A window is above it where it
    exceeds it by more than both

    - `tolerance` times the lowest mean or, where that is larger, times the progress so far, the
      first losses minus the lowest mean (the loss of a classifier may come near 0), and
    - `STANDARD_ERRORS` standard errors, estimated from differences of consecutive losses.

    `patience` such windows in a row are a spike that did not recover. The losses are those that
    Keras reports: of one step, or means over `steps_per_execution`.

    Args:
        total_steps: Steps of the whole training, from which the defaults are derived.
        window: Steps in a window; by default a twentieth of the training, at most 100.
        patience: Windows until training stops; by default a tenth of the training, at least 5.
        tolerance: Fraction by which the loss may rise.

    Raises:
        InputError: A number is not positive.

    Example:
        ```python
        from igpt_keras.training import DivergenceDetector, Diverged

        try:
            model.fit(tokens, epochs=10, callbacks=[DivergenceDetector(total_steps=1000)])
        except Diverged as diverged:
            print(diverged.step, diverged.reason)
        ```
    """

    def __init__(
        self,
        total_steps: int,
        *,
        window: int | None = None,
        patience: int | None = None,
        tolerance: float = 0.1,
    ):
        super().__init__()
        if window is None:
            window = min(max(total_steps // 20, 1), MAX_WINDOW)
        if patience is None:
            patience = max(
                MIN_PATIENCE, math.ceil(PATIENCE_FRACTION * total_steps / max(window, 1))
            )
        for name, value in (
            ("total_steps", total_steps),
            ("window", window),
            ("patience", patience),
            ("tolerance", tolerance),
        ):
            if not value > 0:
                raise InputError(f"{name} must be greater than 0, got {value}")
        self.window = window
        self.patience = patience
        self._means = RunningMeans()
        self._curve = LossCurve(tolerance)

    def on_train_begin(self, logs: Logs = None) -> None:
        self._means.begin(self.model)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        loss = (logs or {})["loss"]
        steps = self._means.update(batch, {"loss": loss})
        step = self._means.step
        if not math.isfinite(loss):
            raise Diverged(step, f"the training loss is {loss}")
        curve = self._curve
        curve.add(self._means.result()["loss"], steps)
        if curve.steps < self.window:
            return
        mean = curve.close_window()
        if curve.above >= self.patience:
            raise Diverged(
                step,
                f"the training loss spiked and did not recover: the last {curve.above} windows "
                f"of {self.window} steps lie above the lowest, {curve.lowest:.4g}, the last one "
                f"at {mean:.4g}",
            )

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._means.end_epoch()
        loss = (logs or {}).get("val_loss", 0.0)
        if not math.isfinite(loss):
            raise Diverged(self._means.step, f"the validation loss is {loss}")

    def get_state(self) -> dict[str, Any]:
        """Returns what `set_state` needs to resume in another process."""
        return {"means": self._means.get_state(), "curve": dataclasses.asdict(self._curve)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned."""
        self._means.set_state(state["means"])
        self._curve = LossCurve(**state["curve"])
