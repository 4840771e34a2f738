import numpy as np
import pytest


@pytest.fixture
def counting():
    """Images that count upwards from a random start, and the start as label."""
    labels = np.random.default_rng(6).integers(0, 8, 96).astype(np.int32)
    return ((labels[:, None] + np.arange(16)) % 8).astype(np.int32), labels
