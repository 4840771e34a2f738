"""Training: the paper's recipe, resuming from checkpoints, and callbacks.

`igpt_keras.training.strategies` selects devices and hosts.
"""

from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager, Interrupted
from igpt_keras.training.callbacks.divergence_detector import Diverged, DivergenceDetector
from igpt_keras.training.callbacks.history_logger import HistoryLogger, read_history
from igpt_keras.training.callbacks.progress_bar import ProgressBar
from igpt_keras.training.callbacks.snapshots import Snapshots
from igpt_keras.training.recipes import (
    FineTuningHistory,
    adam,
    finetune,
    pretrain,
    warmup_cosine,
)
from igpt_keras.training.resumable_fit import resumable_fit

__all__ = [
    "CheckpointManager",
    "DivergenceDetector",
    "Diverged",
    "FineTuningHistory",
    "HistoryLogger",
    "Interrupted",
    "ProgressBar",
    "Snapshots",
    "adam",
    "finetune",
    "pretrain",
    "read_history",
    "resumable_fit",
    "warmup_cosine",
]
