"""The paper's search for learning rates, from large to small, on keras-tuner."""

from tuning.experiments import FinetuneExperiment, PretrainExperiment, ProbeExperiment
from tuning.oracle import LargeToSmallOracle
from tuning.rates import Rates
from tuning.tuner import LearningRateSearch

__all__ = [
    "FinetuneExperiment",
    "LearningRateSearch",
    "LargeToSmallOracle",
    "PretrainExperiment",
    "ProbeExperiment",
    "Rates",
]
