import math

import pytest

from igpt_keras import InputError
from tuning.rates import DIVERGED, FLOOR, UNFINISHED, WORSE, Rates, ending, stops

INF = math.inf


@pytest.mark.parametrize(
    ("rates", "values"),
    [
        # The paper's, for pre-training and for probes.
        (Rates(), [0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003, 0.00001]),
        (Rates(30.0, floor=0.1), [30.0, 10.0, 3.0, 1.0, 0.3, 0.1]),
        (Rates(0.0003, floor=0.00001), [0.0003, 0.0001, 0.00003, 0.00001]),
        # A start that is none of 1–3: the next smaller one of these follows.
        (Rates(0.02, floor=0.001), [0.02, 0.01, 0.003, 0.001]),
        (Rates(5.0, floor=0.5), [5.0, 3.0, 1.0]),
        (Rates(0.01, floor=0.001, factor=2), [0.01, 0.005, 0.0025, 0.00125]),
        (Rates(0.3, floor=0.0003, factor=10), [0.3, 0.03, 0.003, 0.0003]),
        (Rates(1.0, floor=1.0), [1.0]),
    ],
)
def test_sequence(rates, values):
    assert rates.values() == values


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 0.0}, "start must be a finite number above 0, got 0"),
        ({"start": math.nan}, "start must be"),
        ({"floor": -1.0}, "floor must be a finite number above 0, got -1"),
        ({"floor": 0.1}, "floor must be at most start=0.01, got 0.1"),
        ({"factor": 1.0}, "factor must be above 1, got 1"),
    ],
)
def test_sequences_that_do_not_fall(settings, message):
    with pytest.raises(InputError, match=message):
        Rates(**settings)


# Final losses by rate, and how many of them the paper's sentence has tried: those up to the
# first that is larger than the one before it.
SCRIPTS = {
    "unimodal": ([3.0, 2.0, 1.5, 1.6, 1.7], 4, WORSE),
    "monotone to the floor": ([3.0, 2.0, 1.5, 1.4, 1.3], 5, FLOOR),
    "best first": ([1.0, 1.1, 1.2, 1.3, 1.4], 2, WORSE),
    "divergence first": ([INF, INF, 2.0, 1.5, 1.6], 5, WORSE),
    "divergence, then down to the floor": ([INF, 3.0, 2.0, 1.5, 1.4], 5, FLOOR),
    "plateau": ([2.0, 1.5, 1.5, 1.5, 1.4], 5, FLOOR),
    "plateau, then worse": ([2.0, 1.5, 1.5, 1.6, 1.7], 4, WORSE),
    "divergence after a finite loss": ([2.0, INF, 1.0, 0.5, 0.4], 2, WORSE),
    "two minima": ([2.0, 1.5, 1.6, 1.0, 1.2], 3, WORSE),
    "all diverged": ([INF] * 5, 5, DIVERGED),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_stopping_rule(name):
    losses, tried, how = SCRIPTS[name]
    rates = Rates(1.0, floor=0.01)
    assert len(rates.values()) == len(losses)
    for count in range(tried):
        assert ending(losses[:count], rates) == UNFINISHED, count
    assert ending(losses[:tried], rates) == how


def test_tolerance_is_what_a_loss_may_be_worse_by():
    assert stops([1.0, 1.25])
    assert not stops([1.0, 1.25], tolerance=0.25)
    assert stops([1.0, 1.26], tolerance=0.25)
    assert stops([1.0, INF], tolerance=0.25)
