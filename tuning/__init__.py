"""The paper's search for learning rates, from large to small, on keras-tuner."""

from tuning.experiments import FineTuning, Pretraining, Probing
from tuning.oracle import LargeToSmallOracle
from tuning.rates import Rates
from tuning.tuner import LargeToSmall

__all__ = [
    "FineTuning",
    "LargeToSmall",
    "LargeToSmallOracle",
    "Pretraining",
    "Probing",
    "Rates",
]
