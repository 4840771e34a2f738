"""k nearest neighbors by cosine similarity, which have no weights to train."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.evaluation.probe_features import LayerFeatures
from igpt_keras.evaluation.probe_methods import METHODS, ProbeMethod
from igpt_keras.evaluation.probes import Probe

LEAST_NORM = 1e-12


@dataclasses.dataclass(frozen=True, repr=False)
class NeighborProbe(Probe):
    """Classifies an image as those training images whose features point the same way.

    Attributes:
        train: Features and labels of the training images, which may stay on disk.
        num_classes: C.
        num_neighbors: k, at most the number of training images.
        temperature: T.
    """

    train: LayerFeatures
    num_classes: int
    num_neighbors: int
    temperature: float

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Returns the weights of the nearest neighbors of each class, up to a factor an image.

        The training images are read in parts, so that memory does not grow with their number.

        Args:
            x: float32 [m, k · d].

        Returns:
            float64 [m, C].
        """
        x, end = _normalized(x), 0
        similarities = np.empty((len(x), 0), np.float32)
        labels = np.empty((len(x), 0), np.int32)
        for some in self.train.read_all():
            start, end = end, end + len(some)
            of_some = np.broadcast_to(self.train.labels[start:end], (len(x), len(some)))
            similarities = np.concatenate([similarities, x @ _normalized(some).T], axis=1)
            labels = np.concatenate([labels, of_some], axis=1, dtype=np.int32, casting="unsafe")
            if end > self.num_neighbors:
                nearest = np.argpartition(similarities, -self.num_neighbors, axis=1)
                nearest = nearest[:, -self.num_neighbors :]
                similarities = np.take_along_axis(similarities, nearest, axis=1)
                labels = np.take_along_axis(labels, nearest, axis=1)
        # The largest weight is 1: a low temperature does not overflow.
        below = similarities - similarities.max(axis=1, keepdims=True)
        weights = np.exp(below.astype(np.float64) / self.temperature)
        cells = np.arange(len(x))[:, None] * self.num_classes + labels
        counts = np.bincount(cells.ravel(), weights.ravel(), len(x) * self.num_classes)
        return counts.reshape(len(x), self.num_classes)


@METHODS.register("knn")
@dataclasses.dataclass(frozen=True)
class KNN(ProbeMethod):
    """k nearest neighbors with weights exp(cosine similarity / temperature).

    The weighted vote of Wu et al. (2018, section 3.4), with the defaults that benchmarks of
    self-supervised models have, such as lightly's. Features are not centered or scaled.

    Attributes:
        num_neighbors: k; all training images where there are fewer.
        temperature: T; with infinity every neighbor counts the same.

    Raises:
        InputError: k is below 1, or T is not positive.

    Example:
        ```python
        from igpt_keras.evaluation.probe_features import LayerFeatures
        from igpt_keras.evaluation.probe_methods.knn import KNN

        train = LayerFeatures([np.eye(4, dtype=np.float32)], np.array([0, 0, 1, 1]))
        (probe,) = KNN(num_neighbors=1).fits(train, num_classes=2)
        probe.accuracy(train)  # 1.0
        ```
    """

    num_neighbors: int = 200
    temperature: float = 0.1

    def __post_init__(self):
        if self.num_neighbors < 1:
            raise InputError(f"num_neighbors must be at least 1, got {self.num_neighbors}")
        if not self.temperature > 0:
            raise InputError(f"temperature must be above 0, got {self.temperature}")

    @classmethod
    def from_options(
        cls, *, num_neighbors: int | None = None, temperature: float | None = None, **others: Any
    ) -> "KNN":
        given = {"num_neighbors": num_neighbors, "temperature": temperature}
        given = {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(super().from_options(**others), **given)

    def fits(self, train: LayerFeatures, num_classes: int) -> Iterator[NeighborProbe]:
        """Yields the one probe."""
        count = min(self.num_neighbors, len(train))
        setting = {"num_neighbors": count, "temperature": float(self.temperature)}
        yield NeighborProbe(train, num_classes, count, self.temperature, setting=setting)

    def with_setting(self, setting: dict[str, Any]) -> "KNN":
        return self  # There is one, whose k is cut to the training images anew.


def _normalized(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), LEAST_NORM)
