"""Learning rates from large to small, and when to stop (paper, appendix).

"We … sequentially try the learning rates 0.01, 0.003, 0.001, 0.0003, …, stopping once the final
validation loss starts increasing."
"""

import dataclasses
import decimal
import math
from collections.abc import Iterator, Sequence

from igpt_keras import paper
from igpt_keras.errors import InputError

RATE = "learning_rate"
DECADES = 3
# How a search ends; see `ending`.
WORSE = "a trial was worse than the one before it"
FLOOR = "the floor was reached"
DIVERGED = "every rate diverged"
UNFINISHED = "unfinished"


@dataclasses.dataclass(frozen=True)
class Rates:
    """A falling sequence of learning rates, exact as decimal numbers.

    Attributes:
        start: the largest, the first to be tried.
        floor: none is smaller; `DECADES` powers of ten below `start` unless given.
        factor: each is so many times the next; None for the paper's 1–3 sequence, in which
            the next smaller one of …, 0.01, 0.003, 0.001, … follows.

    Raises:
        InputError: a sequence that does not fall.
    """

    start: float = paper.SEARCH_LEARNING_RATES[0]
    floor: float | None = None
    factor: float | None = None

    def __post_init__(self):
        for name in ("start", "floor", "factor"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} must be a finite number above 0, got {value}")
        if self.floor is None:
            object.__setattr__(self, "floor", shifted(self.start, -DECADES))
        if self.floor > self.start:
            raise InputError(f"floor must be at most start={self.start:g}, got {self.floor:g}")
        if self.factor is not None and self.factor <= 1:
            raise InputError(f"factor must be above 1, got {self.factor:g}")

    def values(self) -> list[float]:
        """All of them, the largest first."""
        return [float(rate) for rate in self._falling()]

    def _falling(self) -> Iterator[decimal.Decimal]:
        rate, floor = _exactly(self.start), _exactly(self.floor)
        while rate >= floor:
            yield rate
            rate = _next_of_1_3(rate) if self.factor is None else rate / _exactly(self.factor)


def shifted(rate: float, decades: int) -> float:
    """`rate` times a power of ten, exact as a decimal number."""
    return float(_exactly(rate).scaleb(decades))


def stops(losses: Sequence[float], tolerance: float = 0.0) -> bool:
    """Whether the search ends with these final losses, in the order of the trials.

    It does once one exceeds that of the trial before it by more than `tolerance`. The loss of
    a trial that diverged is infinite: after a finite one it has increased; at the beginning, or
    after another, it has not, and smaller rates are tried.

    Args:
        losses: to be minimized; `math.inf` of a trial that diverged.
        tolerance: what counts as noise, in the unit of the losses.
    """
    return any(
        after > before + tolerance for before, after in zip(losses, losses[1:], strict=False)
    )


def ending(losses: Sequence[float], rates: Rates, tolerance: float = 0.0) -> str:
    """`WORSE`, `FLOOR`, `DIVERGED` (down to the floor) or `UNFINISHED`."""
    if stops(losses, tolerance):
        return WORSE
    if len(losses) < len(rates.values()):
        return UNFINISHED
    return FLOOR if min(losses) < math.inf else DIVERGED


def _exactly(value: float) -> decimal.Decimal:
    """The number as it is written, not as binary holds it."""
    return decimal.Decimal(repr(float(value)))


def _next_of_1_3(rate: decimal.Decimal) -> decimal.Decimal:
    power = decimal.Decimal(1).scaleb(rate.adjusted())
    if rate > 3 * power:
        return 3 * power
    return power if rate > power else 3 * power.scaleb(-1)
