"""Logistic regression by L-BFGS."""

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from igpt_keras.evaluation.probe_features import LayerFeatures, Scaling
from igpt_keras.evaluation.probe_methods import METHODS, ProbeMethod
from igpt_keras.evaluation.probes import LinearProbe

CS = tuple(10.0**power for power in range(-3, 5))
# On the gradient of the mean loss. scikit-learn's 1e-4 stops weak regularization short: 0.7
# points of accuracy on CIFAR-10.
TOLERANCE = 1e-5
FEW_CLASSES = 32


@METHODS.register("lbfgs")
@dataclasses.dataclass(frozen=True)
class LBFGS(ProbeMethod):
    """scikit-learn's logistic regression by L-BFGS (paper, section 3.4: CIFAR, STL-10).

    Features are scaled (`Scaling`) and held in memory. Every fit starts from the one before, so
    that a weak regularization, which is slow to fit, starts near its end.

    Attributes:
        Cs: Inverse strengths of the regularization, from small to large.
        max_iterations: Iterations of a fit, at most.
    """

    Cs: Sequence[float] = CS
    max_iterations: int = 1000

    def fits(self, train: LayerFeatures, num_classes: int) -> Iterator[LinearProbe]:
        """Yields a probe for every C."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        scaling = Scaling.of(train)
        x = scaling.apply(train.read(slice(None)))
        classifier = LogisticRegression(
            max_iter=self.max_iterations, tol=TOLERANCE, warm_start=True
        )
        # With few classes the products are bound by memory: threads would only wait for each
        # other, long where the cores are busy.
        threads = 1 if num_classes <= FEW_CLASSES else None
        for c in self.Cs:
            classifier.set_params(C=c)
            with warnings.catch_warnings(), threadpool_limits(threads, "blas"):
                # The setting says so instead.
                warnings.simplefilter("ignore", ConvergenceWarning)
                classifier.fit(x, train.labels)
            converged = bool(classifier.n_iter_[0] < self.max_iterations)
            setting = {"C": float(c), "converged": converged}
            weights, bias = scaling.unapply(*_projection(classifier, num_classes))
            yield LinearProbe(weights, bias, setting=setting)

    def with_setting(self, setting: dict[str, Any]) -> "LBFGS":
        return dataclasses.replace(self, Cs=[setting["C"]])


def _projection(classifier, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights [D, C] and bias [C]; classes that `classifier` never saw never win."""
    coefficients, intercept = classifier.coef_, classifier.intercept_
    if len(classifier.classes_) == 2:
        # scikit-learn keeps only the difference between the two.
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercept = np.concatenate([np.zeros_like(intercept), intercept])
    weights = np.zeros((coefficients.shape[1], num_classes))
    bias = np.full(num_classes, -np.inf)
    weights[:, classifier.classes_] = coefficients.T
    bias[classifier.classes_] = intercept
    return weights, bias
