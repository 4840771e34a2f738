"""Probes trained on few labels (paper, section 4.7)."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from igpt_keras import paper
from igpt_keras.data.labeled import per_class
from igpt_keras.evaluation.probe_methods import ProbeMethod, fit_probe
from igpt_keras.evaluation.probes import ProbeSplits


def low_data_runs(
    method: ProbeMethod,
    splits: ProbeSplits,
    labels_per_class: Iterable[int],
    *,
    subsets: int = paper.LOW_DATA_SUBSETS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measures probes that are trained on random subsets of the training images.

    Args:
        method: The method; it chooses on the whole validation split, for every subset anew.
        splits: Features; subset i of `train` is drawn by `per_class` with seed `seed` + i.
        labels_per_class: Sizes of the subsets.
        subsets: Number of subsets of each size, at least 2.
        seed: Seed of the first subset.

    Returns:
        For each size `labels_per_class`, the test `accuracies`, their `mean`, and their `std`,
        the sample standard deviation (divisor `subsets` - 1).

    Raises:
        InputError: A class has fewer images.
    """
    runs = []
    for count in labels_per_class:
        accuracies = []
        for subset in range(subsets):
            few = splits.train.take(per_class(splits.train.labels, count, seed + subset))
            probe = fit_probe(method, dataclasses.replace(splits, train=few))
            accuracies.append(probe.accuracy(splits.test))
        runs.append(
            {
                "labels_per_class": count,
                "accuracies": accuracies,
                "mean": float(np.mean(accuracies)),
                "std": float(np.std(accuracies, ddof=1)),
            }
        )
    return runs
