"""Methods of training a linear probe, and the choice of its setting.

A method is a class that is registered by name:

```python
from igpt_keras.evaluation.probe_methods import METHODS, ProbeMethod

@METHODS.register("mine")
class Mine(ProbeMethod): ...
```
"""

import abc
import contextlib
import dataclasses
import os
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from igpt_keras import paper
from igpt_keras.errors import InputError
from igpt_keras.evaluation.probe_features import LayerFeatures, Scaling
from igpt_keras.evaluation.probes import PATIENCE, Probe, ProbeSplits
from igpt_keras.registry import Registry
from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager, stopped_by_signals
from igpt_keras.training.callbacks.divergence_detector import Diverged
from igpt_keras.training.resumable_fit import resumable_fit

if TYPE_CHECKING:
    from typing_extensions import Self

CS = tuple(10.0**power for power in range(-3, 5))
# On the gradient of the mean loss. scikit-learn's 1e-4 stops weak regularization short: 0.7
# points of accuracy on CIFAR-10.
TOLERANCE = 1e-5
FEW_CLASSES = 32


class FitCheckpoints:
    """Checkpoints of fits that come in the same order in every process.

    Args:
        folder: Folder of all of them, in which the last checkpoint of each stays.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        self.count = 0

    def of_next_fit(self) -> CheckpointManager:
        """Returns the checkpoints of the next fit."""
        self.count += 1
        return CheckpointManager(self.folder / f"fit-{self.count:05d}", max_to_keep=1)


class ProbeMethod(abc.ABC):
    """A way to train probes with several settings, from which the best is chosen."""

    @classmethod
    def from_options(
        cls,
        *,
        learning_rate: float | None = None,
        epochs: int = 20,
        seed: int = 0,
        checkpoints: FitCheckpoints | None = None,
    ) -> "Self":
        """Makes the method from the options of an experiment; it may ignore some of them.

        Args:
            learning_rate: The only learning rate; None for the best of several.
            epochs: Passes over the images.
            seed: Seed of every random choice.
            checkpoints: Checkpoints that fits resume from and write.

        Raises:
            InputError: The method has no learning rate.
        """
        del epochs, seed, checkpoints
        if learning_rate is not None:
            raise InputError(f"learning_rate={learning_rate} is for method=sgd")
        return cls()

    @abc.abstractmethod
    def fits(self, train: LayerFeatures, num_classes: int) -> Iterator[Probe]:
        """Yields a trained probe for every setting."""

    @abc.abstractmethod
    def with_setting(self, setting: dict[str, Any]) -> "Self":
        """Returns the method with only this setting, a `Probe.setting`."""


METHODS: Registry[type[ProbeMethod]] = Registry("method")


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

    def fits(self, train: LayerFeatures, num_classes: int) -> Iterator[Probe]:
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
            yield Probe(*scaling.unapply(*_projection(classifier, num_classes)), setting)

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


@METHODS.register("sgd")
@dataclasses.dataclass(frozen=True)
class SGD(ProbeMethod):
    """SGD with momentum and a cosine to 0, for sets too large for L-BFGS (paper, section 3.4).

    Only the projection is trained, from zero; features are scaled (`Scaling`). They are read
    batch by batch: memory holds 12 bytes of an image, its label and its place in the order. With
    the same `seed`, every process sees them in the same order.

    Attributes:
        learning_rates: Rates from large to small.
        epochs: Passes over the images for each of them.
        batch_size: Images in a step.
        seed: Seed of the order of the images.
        checkpoints: Checkpoints that fits resume from and write, or None.
    """

    learning_rates: Sequence[float] = paper.PROBE_LEARNING_RATES
    epochs: int = 20
    batch_size: int = 256
    seed: int = 0
    checkpoints: FitCheckpoints | None = None

    @classmethod
    def from_options(cls, *, learning_rate: float | None = None, **options: Any) -> "SGD":
        if learning_rate is not None:
            options["learning_rates"] = (learning_rate,)
        return cls(**options)

    def fits(self, train: LayerFeatures, num_classes: int) -> Iterator[Probe]:
        """Yields a probe for every learning rate at which the weights stay finite.

        Raises:
            Diverged: There is none.
            Interrupted: A signal stopped a fit; a checkpoint is written.
        """
        scaling, diverged = Scaling.of(train), True
        for learning_rate in self.learning_rates:
            weights = self._fit(train, scaling, num_classes, learning_rate)
            if not np.isfinite(weights).all():
                continue
            diverged = False
            setting = {"learning_rate": float(learning_rate)}
            yield Probe(*scaling.unapply(weights, np.zeros(num_classes)), setting)
        if diverged:
            steps = self.epochs * Batches(train, scaling, self.batch_size, self.seed).per_epoch
            raise Diverged(steps, "the weights of the probe are not finite")

    def _fit(
        self, train: LayerFeatures, scaling: Scaling, num_classes: int, learning_rate: float
    ) -> np.ndarray:
        """Returns the projection that is trained at one rate: float32 [k · d, C]."""
        batches = partial(Batches, train, scaling, self.batch_size, self.seed)
        steps_per_epoch = batches().per_epoch
        schedule = keras.optimizers.schedules.CosineDecay(
            learning_rate, decay_steps=self.epochs * steps_per_epoch
        )
        projection = keras.layers.Dense(num_classes, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input((train.width,)), projection])
        model.compile(
            keras.optimizers.SGD(
                schedule,  # pyright: ignore[reportArgumentType]
                momentum=paper.PROBE_MOMENTUM,
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        checkpoints = None if self.checkpoints is None else self.checkpoints.of_next_fit()
        with stopped_by_signals(checkpoints) if checkpoints else contextlib.nullcontext():
            resumable_fit(
                model,
                batches,
                epochs=self.epochs,
                steps_per_epoch=steps_per_epoch,
                checkpoints=checkpoints,
                verbose=0,
            )
        return np.asarray(keras.ops.convert_to_numpy(projection.kernel))

    def with_setting(self, setting: dict[str, Any]) -> "SGD":
        return dataclasses.replace(self, learning_rates=[setting["learning_rate"]])


class Batches(keras.utils.PyDataset):
    """Endless batches of one size, in an order that changes with every epoch.

    Images that do not fill a batch are left out of an epoch, different ones in each.

    Args:
        features: Features of the images.
        scaling: Scaling of the features.
        batch_size: Images in a batch; all of them where there are fewer.
        seed: Seed of the order.
        start: Number of batches to skip.
    """

    num_batches = None  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        features: LayerFeatures,
        scaling: Scaling,
        batch_size: int,
        seed: int,
        start: int = 0,
    ):
        super().__init__()
        self.features = features
        self.scaling = scaling
        self.batch_size = min(batch_size, len(features))
        self.seed = seed
        self.start = start
        self._epoch = -1
        self._order = np.empty(0, int)

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self.features) // self.batch_size

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, batch = divmod(self.start + index, self.per_epoch)
        if epoch != self._epoch:
            # The order before goes first: memory holds one.
            self._order = np.empty(0, int)
            self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self.features))
            self._epoch = epoch
        # Rows in the order of the file are read faster.
        rows = np.sort(self._order[batch * self.batch_size : (batch + 1) * self.batch_size])
        return self.scaling.apply(self.features.read(rows)), self.features.labels[rows]


def fit_probe(method: ProbeMethod, splits: ProbeSplits, fold: bool = False) -> Probe:
    """Returns the best of a method's probes on validation; of equal ones, the first.

    They are trained in turn until `PATIENCE` of them fell short of the best so far; a single one
    may by chance.

    Args:
        method: The method, with the settings to choose from.
        splits: Features; `test` is not looked at.
        fold: Whether to train again, with the chosen setting, on the training and the validation
            split (paper, appendix).

    Example:
        ```python
        probe = fit_probe(LBFGS(), splits.select([6]))
        print(probe.setting, probe.accuracy(splits.test.select([6])))
        ```
    """
    best, falls = None, 0
    for probe in method.fits(splits.train, splits.num_classes):
        accuracy = probe.accuracy(splits.validation)
        if best is None or accuracy > best.validation_accuracy:
            best, falls = dataclasses.replace(probe, validation_accuracy=accuracy), 0
        elif accuracy < best.validation_accuracy:
            falls += 1
        if falls == PATIENCE:
            break
    assert best is not None, "a method trains one probe at least"
    if not fold:
        return best
    both = splits.train.join(splits.validation)
    (folded,) = method.with_setting(best.setting).fits(both, splits.num_classes)
    return dataclasses.replace(folded, validation_accuracy=best.validation_accuracy)
