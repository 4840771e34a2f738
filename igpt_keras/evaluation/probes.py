"""Linear probes: logistic regression on features that stay as they are (paper, section 2.4)."""

import contextlib
import dataclasses
import os
import pathlib
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from igpt_keras import paper
from igpt_keras.atomic import atomic_path
from igpt_keras.data.labeled import per_class
from igpt_keras.errors import Diverged, InputError
from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager, stopped_by_signals
from igpt_keras.training.resumable_fit import resumable_fit

CS = tuple(10.0**power for power in range(-3, 5))
PATIENCE = 2
# On the gradient of the mean loss. scikit-learn's 1e-4 stops weak regularization short: 0.7
# points of accuracy on CIFAR-10.
TOLERANCE = 1e-5
FEW_CLASSES = 32
CHUNK = 2048


class Joined:
    """Arrays [N, d] and [M, d] as one of [N + M, d], of which only what is asked for is read."""

    def __init__(self, first: np.ndarray, second: np.ndarray):
        self.parts = (first, second)
        self.shape = (len(first) + len(second), first.shape[1])

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.shape[0]))
        first, second = self.parts
        read = np.empty((len(rows), self.shape[1]), np.result_type(first, second))
        in_first = rows < len(first)
        read[in_first] = first[rows[in_first]]
        read[~in_first] = second[rows[~in_first] - len(first)]
        return read


@dataclasses.dataclass(frozen=True)
class LayerFeatures:
    """Features of one or several layers, side by side, and the labels of the images.

    Attributes:
        layers: k arrays [N, d], one a layer, maybe mapped from disk.
        labels: int [N].
    """

    layers: Sequence[np.ndarray | Joined]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        """k · d."""
        return sum(layer.shape[1] for layer in self.layers)

    def select(self, layers: Iterable[int]) -> "LayerFeatures":
        """Those layers alone; nothing is read."""
        return LayerFeatures([self.layers[layer] for layer in layers], self.labels)

    def take(self, indices: np.ndarray) -> "LayerFeatures":
        """The images at `indices`, in that order, in memory."""
        return LayerFeatures([layer[indices] for layer in self.layers], self.labels[indices])

    def join(self, other: "LayerFeatures") -> "LayerFeatures":
        """The images of both; nothing is read."""
        layers = [Joined(*pair) for pair in zip(self.layers, other.layers, strict=True)]
        return LayerFeatures(layers, np.concatenate([self.labels, other.labels]))

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """The features of some images, layer beside layer: float32 [m, k · d]."""
        return np.concatenate([layer[rows] for layer in self.layers], axis=1, dtype=np.float32)

    def pieces(self) -> Iterator[np.ndarray]:
        """All features in order, a few thousand images at a time."""
        for start in range(0, len(self), CHUNK):
            yield self.read(slice(start, start + CHUNK))


@dataclasses.dataclass(frozen=True)
class Probe:
    """A trained linear map.

    Attributes:
        weights: float32 [k · d, C].
        bias: float32 [C].
        setting: "C" or "learning_rate" it was trained with; of L-BFGS also
            whether it converged.
        validation_accuracy: share of the validation images whose class is right.
    """

    weights: np.ndarray
    bias: np.ndarray
    setting: dict[str, Any]
    validation_accuracy: float = float("nan")

    def save(self, file: str | os.PathLike) -> None:
        """Writes `weights` and `bias` to an .npz file, whole or not at all; an earlier one goes."""
        with atomic_path(file, overwrite=True) as partial, open(partial, "wb") as opened:
            np.savez(opened, weights=self.weights, bias=self.bias)

    def as_model(self) -> keras.Model:
        """A Keras model from features float32 [N, k · d] to class logits float32 [N, C]."""
        width, num_classes = self.weights.shape
        linear = keras.layers.Dense(num_classes, name="class_head", dtype="float32")
        model = keras.Sequential([keras.Input((width,)), linear])
        linear.set_weights([self.weights, self.bias])
        return model

    def predict(self, features: LayerFeatures) -> np.ndarray:
        """The classes of the images: int32 [N]."""
        classes = [(x @ self.weights + self.bias).argmax(axis=1) for x in features.pieces()]
        return np.concatenate(classes).astype(np.int32)

    def accuracy(self, features: LayerFeatures) -> float:
        """Share of the images whose class is right."""
        return float((self.predict(features) == features.labels).mean())


def load_probe(file: str | os.PathLike) -> Probe:
    """What `Probe.save` wrote; of the setting and the accuracy, `result.json` tells.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with np.load(file) as arrays:
            return Probe(arrays["weights"], arrays["bias"], {})
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} is not a probe: {error}") from None


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Features minus their mean, divided by the root of the sum of their variances.

    So the mean squared norm is 1, whatever the model, and strengths and learning rates
    mean the same for all. Directions keep their share: this is logistic regression on the
    features as they are, with another unit of regularization.

    Attributes:
        mean: float32 [k · d].
        scale: the divisor.
    """

    mean: np.ndarray
    scale: float

    @classmethod
    def of(cls, features: LayerFeatures) -> "Scaling":
        """Takes mean and variances from one pass over `features`."""
        count, mean, squares = 0, np.zeros(features.width), 0.0
        for x in features.pieces():
            x = x.astype(np.float64)
            # Chan, Golub and LeVeque: sums of squares about the mean of all so far.
            difference = x.mean(axis=0) - mean
            total = count + len(x)
            squares += ((x - x.mean(axis=0)) ** 2).sum()
            squares += (difference**2).sum() * count * len(x) / total
            mean += difference * len(x) / total
            count = total
        return cls(mean.astype(np.float32), float(np.sqrt(squares / count)) or 1.0)

    def apply(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / np.float32(self.scale)

    def probe(self, weights: np.ndarray, bias: np.ndarray, setting: dict[str, Any]) -> Probe:
        """The probe of unscaled features that does what a linear map does to scaled ones."""
        weights = weights.astype(np.float64) / self.scale
        bias = bias - self.mean @ weights
        return Probe(weights.astype(np.float32), bias.astype(np.float32), setting)


@dataclasses.dataclass(frozen=True)
class LBFGS:
    """scikit-learn's logistic regression by L-BFGS (section 3.4: CIFAR, STL-10).

    Features are scaled (`Scaling`) and held in memory. Every fit starts from the one
    before, so that a weak regularization, slow to fit, starts near its end.

    Attributes:
        Cs: inverse strengths of the regularization, as of scikit-learn, from small to large.
        max_iterations: of every fit.
    """

    Cs: Sequence[float] = CS
    max_iterations: int = 1000

    def fits(self, train: LayerFeatures, num_classes: int) -> Iterator[Probe]:
        """A probe for every strength."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        scaling = Scaling.of(train)
        x = scaling.apply(train.read(slice(None)))
        classifier = LogisticRegression(
            max_iter=self.max_iterations, tol=TOLERANCE, warm_start=True
        )
        # With few classes the products are bound by memory: threads would only wait for
        # each other, long where the cores are busy.
        threads = 1 if num_classes <= FEW_CLASSES else None
        for c in self.Cs:
            classifier.set_params(C=c)
            with warnings.catch_warnings(), threadpool_limits(threads, "blas"):
                # The setting says so instead.
                warnings.simplefilter("ignore", ConvergenceWarning)
                classifier.fit(x, train.labels)
            converged = bool(classifier.n_iter_[0] < self.max_iterations)
            setting = {"C": float(c), "converged": converged}
            yield scaling.probe(*_linear_map(classifier, num_classes), setting)

    def with_setting(self, probe: Probe) -> "LBFGS":
        """The same with the strength of `probe` alone."""
        return dataclasses.replace(self, Cs=[probe.setting["C"]])


def _linear_map(classifier, num_classes):
    """Weights [D, C] and bias [C] of a fitted classifier; classes it never saw never win."""
    coefficients, intercept = classifier.coef_, classifier.intercept_
    if len(classifier.classes_) == 2:
        # scikit-learn keeps the difference between the two only.
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercept = np.concatenate([np.zeros_like(intercept), intercept])
    weights = np.zeros((coefficients.shape[1], num_classes))
    bias = np.full(num_classes, -np.inf)
    weights[:, classifier.classes_] = coefficients.T
    bias[classifier.classes_] = intercept
    return weights, bias


@dataclasses.dataclass(frozen=True)
class SGD:
    """SGD with momentum 0.9 and a cosine to 0, for sets too large for L-BFGS (section 3.4).

    Only the projection is trained, from zero; features are scaled (`Scaling`). They are
    read batch by batch: what memory holds of an image is its label and its place in the
    order, 12 bytes. With the same `seed`, every process sees them in the same order.

    Attributes:
        learning_rates: from large to small.
        epochs: passes over the images for each of them.
        batch_size: images in a step.
        seed: of the order of the images.
        states: that fits go on from and write; None to begin anew.
    """

    learning_rates: Sequence[float] = paper.PROBE_LEARNING_RATES
    epochs: int = 20
    batch_size: int = 256
    seed: int = 0
    states: "FitCheckpoints | None" = None

    def fits(self, train: LayerFeatures, num_classes: int) -> Iterator[Probe]:
        """A probe for every learning rate at which the weights stay finite.

        Raises:
            Diverged: there is none.
            Interrupted: a signal told it to stop; its state is written.
        """
        scaling, none = Scaling.of(train), True
        for learning_rate in self.learning_rates:
            weights = self._fit(train, scaling, num_classes, learning_rate)
            if not np.isfinite(weights).all():
                continue
            none = False
            setting = {"learning_rate": float(learning_rate)}
            yield scaling.probe(weights, np.zeros(num_classes), setting)
        if none:
            steps = self.epochs * Batches(train, scaling, self.batch_size, self.seed).per_epoch
            raise Diverged(steps, "the weights of the probe are not finite")

    def _fit(self, train, scaling, num_classes, learning_rate) -> np.ndarray:
        """The projection, float32 [k · d, C], that is trained at one rate."""
        batches = partial(Batches, train, scaling, self.batch_size, self.seed)
        steps_per_epoch = batches().per_epoch
        schedule = keras.optimizers.schedules.CosineDecay(
            learning_rate, decay_steps=self.epochs * steps_per_epoch
        )
        projection = keras.layers.Dense(num_classes, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input((train.width,)), projection])
        model.compile(
            keras.optimizers.SGD(schedule, momentum=paper.PROBE_MOMENTUM),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        states = self.states and self.states.of_next_fit()
        with stopped_by_signals(states) if states else contextlib.nullcontext():
            resumable_fit(
                model,
                batches,
                epochs=self.epochs,
                steps_per_epoch=steps_per_epoch,
                checkpoints=states,
                verbose=0,
            )
        return keras.ops.convert_to_numpy(projection.kernel)

    def with_setting(self, probe: Probe) -> "SGD":
        """The same with the learning rate of `probe` alone."""
        return dataclasses.replace(self, learning_rates=[probe.setting["learning_rate"]])


class FitCheckpoints:
    """The states of fits that come in the same order in every process.

    Args:
        folder: of all of them, where the last state of each stays.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        self.count = 0

    def of_next_fit(self) -> CheckpointManager:
        self.count += 1
        return CheckpointManager(self.folder / f"fit-{self.count:05d}", max_to_keep=1)


class Batches(keras.utils.PyDataset):
    """Batches of one size without end, in an order that changes with every epoch.

    Images that fill no batch are left out of an epoch, others in each.

    Args:
        features: of the images.
        scaling: of the features.
        batch_size: images in a batch; all, where there are fewer.
        seed: of the order.
        start: how many batches to leave out.
    """

    num_batches = None

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
        self._epoch, self._order = -1, None

    @property
    def per_epoch(self) -> int:
        """How many batches there are in an epoch."""
        return len(self.features) // self.batch_size

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, batch = divmod(self.start + index, self.per_epoch)
        if epoch != self._epoch:
            # The order before goes first: memory holds one.
            self._order = None
            self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self.features))
            self._epoch = epoch
        # Rows in the order of the file are read faster.
        rows = np.sort(self._order[batch * self.batch_size : (batch + 1) * self.batch_size])
        return self.scaling.apply(self.features.read(rows)), self.features.labels[rows]


@dataclasses.dataclass(frozen=True)
class ProbeSplits:
    """What probes are trained on, chosen by, and measured on.

    Attributes:
        train: to train on.
        validation: to choose by.
        test: to measure on.
        num_classes: C; labels lie in 0…C - 1.
    """

    train: LayerFeatures
    validation: LayerFeatures
    test: LayerFeatures
    num_classes: int

    def __post_init__(self):
        for name in ("train", "validation", "test"):
            labels = getattr(self, name).labels
            if not len(labels) or labels.min() < 0 or labels.max() >= self.num_classes:
                raise InputError(
                    f"labels of {name} must lie in 0…{self.num_classes - 1}, one for each image"
                )
        if self.train.labels.min() == self.train.labels.max():
            raise InputError("labels of train must be of two classes at least")

    def select(self, layers: Iterable[int]) -> "ProbeSplits":
        """The same splits with those layers alone."""
        splits = (self.train, self.validation, self.test)
        return ProbeSplits(*(split.select(layers) for split in splits), self.num_classes)


def fit_probe(method: LBFGS | SGD, splits: ProbeSplits, fold: bool = False) -> Probe:
    """The best of the method's probes on validation; of equally good ones the first.

    They are trained in turn until `PATIENCE` fell short of the best so far, one alone may
    by chance.

    Args:
        method: and what it is to choose from.
        splits: of which `test` is not looked at.
        fold: whether the chosen setting is trained anew on training and validation split
            (paper, appendix).
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
    if not fold:
        return best
    both = splits.train.join(splits.validation)
    (folded,) = method.with_setting(best).fits(both, splits.num_classes)
    return dataclasses.replace(folded, validation_accuracy=best.validation_accuracy)


def best_layer(curve: dict[int, Probe]) -> int:
    """The layer of highest validation accuracy; of equally good ones the first."""
    return min(curve, key=lambda layer: (-curve[layer].validation_accuracy, layer))


def layers_around(layer: int, count: int, num_layers: int) -> list[int]:
    """`count` layers centerd at `layer`, or as near as 0…`num_layers` allows (section 4.4).

    Raises:
        InputError: more layers than there are.
    """
    if not 1 <= count <= num_layers + 1:
        raise InputError(f"count must lie in 1…{num_layers + 1}, got {count}")
    first = min(max(layer - count // 2, 0), num_layers + 1 - count)
    return list(range(first, first + count))


def low_data_runs(
    method: LBFGS | SGD,
    splits: ProbeSplits,
    labels_per_class: Iterable[int],
    *,
    subsets: int = paper.LOW_DATA_SUBSETS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Probes trained on few labels, over random subsets (paper, section 4.7).

    Args:
        method: chooses on the whole validation split, for every subset anew.
        splits: subset i of `train` is drawn by `per_class` with seed `seed` + i.
        labels_per_class: sizes of the subsets.
        subsets: how many of each size, two at least.
        seed: of the first subset.

    Returns: for each size `labels_per_class`, the test `accuracies`, their `mean`, and
    their `std`, the sample standard deviation (divisor `subsets` - 1).

    Raises:
        InputError: a class with fewer images.
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
