"""Features that probes are trained on: layers side by side, in memory or on disk."""

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from typing_extensions import Self

IMAGES_PER_READ = 2048


class JoinedRows:
    """Arrays [N, d] and [M, d] as one [N + M, d], of which only the indexed rows are read.

    Args:
        first: An array, or an object with the same `dtype`, `shape` and indexing by rows.
        second: Likewise.
    """

    def __init__(self, first: Any, second: Any):
        self.arrays = (first, second)
        self.dtype = np.result_type(first.dtype, second.dtype)
        self.shape = (first.shape[0] + second.shape[0], first.shape[1])

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.shape[0]))
        first, second = self.arrays
        read = np.empty((len(rows), self.shape[1]), self.dtype)
        in_first = rows < first.shape[0]
        read[in_first] = first[rows[in_first]]
        read[~in_first] = second[rows[~in_first] - first.shape[0]]
        return read


class Features(abc.ABC):
    """Features of images and the images' labels.

    Attributes:
        labels: int [N].
    """

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Number of features of an image, or of a position; of k layers k · d."""

    @property
    def images_per_read(self) -> int:
        """Images that `read_all` reads at a time."""
        return IMAGES_PER_READ

    @abc.abstractmethod
    def select(self, layers: Iterable[int]) -> "Self":
        """Returns only these layers, without reading them."""

    @abc.abstractmethod
    def take(self, indices: np.ndarray) -> "Self":
        """Returns the images at `indices`, in that order."""

    @abc.abstractmethod
    def join(self, other: "Self") -> "Self":
        """Returns the images of both, without reading them."""

    @abc.abstractmethod
    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns the features of some images, layers concatenated: float32 [m, …, k · d]."""

    def read_all(self) -> Iterator[np.ndarray]:
        """Yields all features in order, at most a few thousand images at a time."""
        for start in range(0, len(self), self.images_per_read):
            yield self.read(slice(start, start + self.images_per_read))


@dataclasses.dataclass(frozen=True)
class LayerFeatures(Features):
    """Features of one or several layers, side by side, and the labels of the images.

    Attributes:
        layers: k arrays [N, d], one for each layer; they may be mapped from disk.
        labels: int [N].

    Example:
        >>> features = LayerFeatures([np.zeros((10, 4)), np.ones((10, 4))], np.zeros(10, int))
        >>> features.width, features.select([1]).read(slice(2)).shape
        (8, (2, 4))
    """

    layers: Sequence[np.ndarray | JoinedRows]
    labels: np.ndarray

    @property
    def width(self) -> int:
        return sum(layer.shape[1] for layer in self.layers)

    def select(self, layers: Iterable[int]) -> "LayerFeatures":
        return LayerFeatures([self.layers[layer] for layer in layers], self.labels)

    def take(self, indices: np.ndarray) -> "LayerFeatures":
        """Returns the images at `indices`, in that order, in memory."""
        return LayerFeatures([layer[indices] for layer in self.layers], self.labels[indices])

    def join(self, other: "LayerFeatures") -> "LayerFeatures":
        layers = [JoinedRows(*pair) for pair in zip(self.layers, other.layers, strict=True)]
        return LayerFeatures(layers, np.concatenate([self.labels, other.labels]))

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns the features of some images, layers concatenated: float32 [m, k · d]."""
        return np.concatenate([layer[rows] for layer in self.layers], axis=1, dtype=np.float32)


def moments(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and variance of each feature, float64 [k · d], from one pass.

    Features of every position are taken over images and positions.
    """
    count, mean, squares = 0, np.zeros(features.width), np.zeros(features.width)
    for some in features.read_all():
        x = some.reshape(-1, features.width).astype(np.float64)
        # Chan, Golub and LeVeque: sums of squares about the mean of all so far.
        difference = x.mean(axis=0) - mean
        total = count + len(x)
        squares += ((x - x.mean(axis=0)) ** 2).sum(axis=0)
        squares += difference**2 * count * len(x) / total
        mean += difference * len(x) / total
        count = total
    return mean, squares / count


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Features minus their mean, divided by the square root of the sum of their variances.

    The mean squared norm is then 1 for every model, so that a regularization or a learning rate
    means the same for all. Directions keep their proportions: this is logistic regression on the
    features as they are, with another unit of regularization.

    Attributes:
        mean: float32 [k · d].
        scale: The divisor.
    """

    mean: np.ndarray
    scale: float

    @classmethod
    def of(cls, features: Features) -> "Scaling":
        """Takes mean and variances from one pass over `features`."""
        mean, variance = moments(features)
        return cls(mean.astype(np.float32), float(np.sqrt(variance.sum())) or 1.0)

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Scales features, float32 [m, k · d]."""
        return (x - self.mean) / np.float32(self.scale)

    def unapply(self, weights: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the projection of unscaled features that equals one of scaled features.

        Args:
            weights: [k · d, C].
            bias: [C].

        Returns:
            float32 [k · d, C] and float32 [C].
        """
        weights = weights.astype(np.float64) / self.scale
        bias = bias - self.mean @ weights
        return weights.astype(np.float32), bias.astype(np.float32)
