"""Inputs and labels of the models in these tests."""

import numpy as np
from keras import ops

LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)


def masks(probability=0.3, seed=5):
    return np.random.default_rng(seed).random((6, 16)) < probability


def as_array(tensor):
    return ops.convert_to_numpy(tensor)
