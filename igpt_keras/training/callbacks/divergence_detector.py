"""Training that no longer learns is stopped: the paper's sign of too high a learning rate."""

import dataclasses
import math
import statistics
from typing import Any

import keras

from igpt_keras.errors import InputError
from igpt_keras.training.callbacks.running_means import RunningMeans

STANDARD_ERRORS = 5.0
# So short that the early fall of a loss does not hide a spike.
LONGEST_WINDOW = 100
FEWEST_WINDOWS, SHARE_OF_STEPS = 5, 0.1
# Of so many differences, noise is known.
DIFFERENCES = 16


class Diverged(Exception):
    """The loss is not finite, or spiked and did not recover.

    Attributes:
        step: after which this was seen.
        reason: what was seen, in words.
    """

    def __init__(self, step: int, reason: str):
        super().__init__(f"training diverged at step {step}: {reason}")
        self.step = step
        self.reason = reason


@dataclasses.dataclass
class LossCurve:
    """The loss in windows, and how many of the latest lie above the lowest.

    Attributes:
        tolerance: as in `DivergenceDetector`.
        beginning: the first losses, up to five.
        lowest: the lowest mean of a window, to begin with the median of `beginning`.
        lowest_losses: how many losses that is the mean of.
        noise: the variance of a loss.
        differences: of how many differences of consecutive losses that is the mean; old ones
            fade.
        above: how many of the latest windows lie above the lowest.
        steps, losses, total, changes, squares: of the window that is not closed: steps,
            losses, their sum over steps, differences of consecutive losses, their squares' sum.
        previous: the last loss.
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
        """Hears of the mean loss of `steps` steps."""
        if len(self.beginning) < 5:
            self.beginning.append(loss)
        if self.previous is not None:
            self.changes += 1
            self.squares += (loss - self.previous) ** 2
        self.previous = loss
        self.steps += steps
        self.losses += 1
        self.total += loss * steps

    def close_window(self) -> float:
        """Compares the window with the lowest one; returns its mean."""
        mean = self.total / self.steps
        first = statistics.median(self.beginning)
        if self.lowest is None:
            self.lowest = first
        error = math.sqrt(self.noise * (1 / self.losses + 1 / self.lowest_losses))
        learned = first - self.lowest
        margin = max(self.tolerance * max(abs(self.lowest), learned), STANDARD_ERRORS * error)
        if self.differences >= DIFFERENCES and mean > self.lowest + margin:
            # Of ordinary noise, a spike says nothing.
            self.above += 1
        else:
            self.above = 0
            self._count_noise()
        if mean < self.lowest:
            self.lowest, self.lowest_losses = mean, self.losses
        self.steps = self.losses = self.changes = 0
        self.total = self.squares = 0.0
        return mean

    def _count_noise(self):
        # A tenth of the past fades with every window, but never so much that little is left.
        kept = min(self.differences, max(DIFFERENCES, 9 * self.changes))
        self.differences = kept + self.changes
        if self.differences:
            self.noise = (self.noise * kept + self.squares / 2) / self.differences


class DivergenceDetector(keras.callbacks.Callback):
    """Raises `Diverged` at a loss that is not finite, or that spiked and does not recover.

    The mean loss of every `window` steps is compared with the lowest such mean so far, or
    with the median of the first five losses where that is lower. It is above where it exceeds
    that by more than

    - `tolerance` times the larger of it and of what was learned until then, the first losses
      minus the lowest mean (the loss of a classifier may come near 0), and
    - `STANDARD_ERRORS` standard errors, by the differences of consecutive losses.

    `patience` such windows in a row are a spike that has not recovered. The losses are those
    that Keras reports: of one step, or the mean over `steps_per_execution`.

    Args:
        total_steps: of the run; the defaults come from it.
        window: in steps; a twentieth of the run, but at most 100.
        patience: in windows; a tenth of the run, but at least 5.
        tolerance: a share.

    Raises:
        InputError: a number that is not positive.
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
            window = min(max(total_steps // 20, 1), LONGEST_WINDOW)
        if patience is None:
            patience = max(FEWEST_WINDOWS, math.ceil(SHARE_OF_STEPS * total_steps / max(window, 1)))
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
        self._recent = RunningMeans()
        self._curve = LossCurve(tolerance)

    def on_train_begin(self, logs=None):
        self._recent.begin(self.model)

    def on_train_batch_end(self, batch, logs=None):
        steps = self._recent.update(batch, {"loss": logs["loss"]})
        step = self._recent.step
        if not math.isfinite(logs["loss"]):
            raise Diverged(step, f"the training loss is {logs['loss']}")
        curve = self._curve
        curve.add(self._recent.result()["loss"], steps)
        if curve.steps < self.window:
            return
        mean = curve.close_window()
        if curve.above >= self.patience:
            raise Diverged(
                step,
                f"the training loss spiked and did not recover: {mean:.4g}, and for "
                f"{curve.above} windows of {self.window} steps above the lowest, "
                f"{curve.lowest:.4g}",
            )

    def on_epoch_end(self, epoch, logs=None):
        self._recent.end_epoch()
        loss = (logs or {}).get("val_loss", 0.0)
        if not math.isfinite(loss):
            raise Diverged(self._recent.step, f"the validation loss is {loss}")

    def get_state(self) -> dict[str, Any]:
        """What `set_state` needs to go on in another process."""
        return {"recent": self._recent.get_state(), "curve": dataclasses.asdict(self._curve)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from `get_state`."""
        self._recent.set_state(state["recent"])
        self._curve = LossCurve(**state["curve"])
