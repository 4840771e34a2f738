"""Completing images and sampling new ones, pixel by pixel."""

from igpt_keras.sampling.drafts import Draft, ModelDraft, NeighborDraft
from igpt_keras.sampling.generate import Completions, complete, sample, sample_tokens
from igpt_keras.sampling.scoring import log_probabilities_of, score
from igpt_keras.sampling.settings import (
    check_backend,
    check_can_sample,
    check_settings,
    completion_seeds,
)

__all__ = [
    "Completions",
    "Draft",
    "ModelDraft",
    "NeighborDraft",
    "check_backend",
    "check_can_sample",
    "check_settings",
    "complete",
    "completion_seeds",
    "log_probabilities_of",
    "sample",
    "sample_tokens",
    "score",
]
