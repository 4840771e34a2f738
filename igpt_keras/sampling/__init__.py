"""Completing images and sampling new ones, pixel by pixel."""

from igpt_keras.sampling.completion import Completions, complete, sample, sample_tokens
from igpt_keras.sampling.settings import (
    check_backend,
    check_can_sample,
    check_settings,
    completion_seeds,
)

__all__ = [
    "Completions",
    "check_backend",
    "check_can_sample",
    "check_settings",
    "complete",
    "completion_seeds",
    "sample",
    "sample_tokens",
]
