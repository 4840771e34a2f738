"""The paper's search for learning rates, from large to small, with keras-tuner."""

from igpt_keras.extras import require

require("keras_tuner", "tune")

from tuning.experiments import (  # noqa: E402
    Experiment,
    FinetuneExperiment,
    PretrainExperiment,
    ProbeExperiment,
)
from tuning.oracle import LargeToSmallOracle  # noqa: E402
from tuning.rates import Rates  # noqa: E402
from tuning.tuner import LearningRateSearch  # noqa: E402

__all__ = [
    "Experiment",
    "FinetuneExperiment",
    "LargeToSmallOracle",
    "LearningRateSearch",
    "PretrainExperiment",
    "ProbeExperiment",
    "Rates",
]
