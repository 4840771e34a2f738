"""Ridge regression to the classes, in closed form."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from igpt_keras.evaluation.probe_features import LayerFeatures, Scaling
from igpt_keras.evaluation.probe_methods import METHODS, ProbeMethod
from igpt_keras.evaluation.probes import LinearProbe

ALPHAS = tuple(10.0**power for power in range(0, -8, -1))


@METHODS.register("ridge")
@dataclasses.dataclass(frozen=True)
class Ridge(ProbeMethod):
    """Least squares to 1 for an image's class and -1 for the others, with weight decay.

    The weights solve (XᵀX / N + alpha · I) W = XᵀY / N, with features X that are scaled
    (`Scaling`), so that the trace of XᵀX / N is 1. One eigendecomposition serves every alpha.
    Features are read in parts: memory holds a matrix [k · d, k · d] in float64.

    Attributes:
        alphas: Strengths of the regularization, from strong to weak.

    Example:
        ```python
        from igpt_keras.evaluation.probe_features import LayerFeatures
        from igpt_keras.evaluation.probe_methods.ridge import Ridge

        train = LayerFeatures([np.eye(4, dtype=np.float32)], np.array([0, 0, 1, 1]))
        (probe,) = Ridge(alphas=[0.01]).fits(train, num_classes=2)
        probe.accuracy(train)  # 1.0
        ```
    """

    alphas: Sequence[float] = ALPHAS

    def fits(self, train: LayerFeatures, num_classes: int) -> Iterator[LinearProbe]:
        """Yields a probe for every alpha."""
        scaling = Scaling.of(train)
        images = np.bincount(train.labels, minlength=num_classes)
        means = 2 * images / len(train) - 1
        covariance, targets = _products(train, scaling, means)
        values, vectors = np.linalg.eigh(covariance)
        rotated = vectors.T @ targets
        # Classes without images are never predicted.
        bias = np.where(images > 0, means, -np.inf)
        for alpha in self.alphas:
            # Rounding makes eigenvalues of 0 negative.
            weights = vectors @ (rotated / (np.maximum(values, 0) + alpha)[:, None])
            setting = {"alpha": float(alpha)}
            yield LinearProbe(*scaling.unapply(weights, bias), setting=setting)

    def with_setting(self, setting: dict[str, Any]) -> "Ridge":
        return dataclasses.replace(self, alphas=[setting["alpha"]])


def _products(
    train: LayerFeatures, scaling: Scaling, means: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns XᵀX / N, float64 [D, D], and XᵀY / N, float64 [D, C], of centered targets Y."""
    covariance = np.zeros((train.width, train.width))
    targets = np.zeros((train.width, len(means)))
    end = 0
    for some in train.read_all():
        start, end = end, end + len(some)
        x = scaling.apply(some).astype(np.float64)
        covariance += x.T @ x
        targets += x.T @ (2.0 * np.eye(len(means))[train.labels[start:end]] - 1 - means)
    return covariance / len(train), targets / len(train)
