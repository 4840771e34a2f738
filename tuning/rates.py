"""Learning rates from large to small, and when to stop (paper, section 3.4).

"We … sequentially try the learning rates 0.01, 0.003, 0.001, 0.0003, …, stopping once the final
validation loss starts increasing."
"""

import dataclasses
import decimal
import math
from collections.abc import Iterator, Sequence
from typing import cast

from igpt_keras import paper
from igpt_keras.errors import InputError

RATE = "learning_rate"
DECADES = 3
# The ways in which a search ends; see `ending`.
WORSE = "a trial was worse than the one before it"
FLOOR = "the floor was reached"
DIVERGED = "every rate diverged"
UNFINISHED = "unfinished"


@dataclasses.dataclass(frozen=True)
class Rates:
    """A falling sequence of learning rates, exact as decimal numbers.

    Attributes:
        start: The largest rate, the first to try.
        floor: A lower bound. Default: `DECADES` powers of ten below `start`.
        factor: Ratio of a rate to the next one; None for the paper's sequence …, 0.01, 0.003,
            0.001, …, from which the next smaller number follows.

    Raises:
        InputError: The sequence does not fall.

    Example:
        ```python
        Rates(0.01, floor=0.001).values()  # [0.01, 0.003, 0.001]
        ```
    """

    start: float = paper.SEARCH_LEARNING_RATES[0]
    floor: float | None = None
    factor: float | None = None

    def __post_init__(self):
        for name in ("start", "floor", "factor"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} must be a finite number above 0, got {value}")
        floor = shifted(self.start, -DECADES) if self.floor is None else self.floor
        if floor > self.start:
            raise InputError(f"floor must be at most start={self.start:g}, got {floor:g}")
        object.__setattr__(self, "floor", floor)
        if self.factor is not None and self.factor <= 1:
            raise InputError(f"factor must be above 1, got {self.factor:g}")

    def values(self) -> list[float]:
        """Returns all rates, the largest first."""
        return [float(rate) for rate in self._falling()]

    def _falling(self) -> Iterator[decimal.Decimal]:
        rate, floor = _exactly(self.start), _exactly(cast(float, self.floor))
        while rate >= floor:
            yield rate
            rate = _next_of_1_3(rate) if self.factor is None else rate / _exactly(self.factor)


def shifted(rate: float, decades: int) -> float:
    """Returns `rate` times a power of ten, exact as a decimal number."""
    return float(_exactly(rate).scaleb(decades))


def stops(losses: Sequence[float], tolerance: float = 0.0) -> bool:
    """Returns whether a search ends with these final losses.

    It ends once a loss exceeds the previous one by more than `tolerance`. The loss of a trial that
    diverged is infinite: after a finite loss it is an increase; as the first loss, or after another
    infinite one, it is not, and smaller rates are tried.

    Args:
        losses: Losses to be minimized, in the order of the trials; `math.inf` if one diverged.
        tolerance: What counts as noise, in the unit of the losses.
    """
    return any(
        after > before + tolerance for before, after in zip(losses, losses[1:], strict=False)
    )


def ending(losses: Sequence[float], rates: Rates, tolerance: float = 0.0) -> str:
    """Returns `WORSE`, `FLOOR`, `DIVERGED` (down to the floor) or `UNFINISHED`."""
    if stops(losses, tolerance):
        return WORSE
    if len(losses) < len(rates.values()):
        return UNFINISHED
    return FLOOR if min(losses) < math.inf else DIVERGED


def _exactly(value: float) -> decimal.Decimal:
    """Returns the number as it is written, not as binary holds it."""
    return decimal.Decimal(repr(float(value)))


def _next_of_1_3(rate: decimal.Decimal) -> decimal.Decimal:
    power = decimal.Decimal(1).scaleb(rate.adjusted())
    if rate > 3 * power:
        return 3 * power
    return power if rate > power else 3 * power.scaleb(-1)
