"""Probes: classifiers on features of a model, linear in the paper (section 2.4)."""

import abc
import dataclasses
import os
import zipfile
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError
from igpt_keras.evaluation.predictions import Predictions
from igpt_keras.evaluation.probe_features import LayerFeatures
from igpt_keras.short_repr import ShortRepr

PATIENCE = 2


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Probe(ShortRepr, abc.ABC):
    """A trained classifier of features.

    Attributes:
        setting: The setting it was trained with, such as "C" or "learning_rate", and what the
            method says of the training, such as "converged".
        validation_accuracy: Share of the validation images whose class is right.
    """

    setting: dict[str, Any] = dataclasses.field(default_factory=dict)
    validation_accuracy: float = float("nan")

    @abc.abstractmethod
    def scores(self, x: np.ndarray) -> np.ndarray:
        """Returns scores of the classes, float [m, C], of features float32 [m, k · d].

        The highest one is the class of the image.
        """

    def predict(self, features: LayerFeatures) -> np.ndarray:
        """Returns the classes of the images: int32 [N]."""
        classes = [self.scores(x).argmax(axis=1) for x in features.read_all()]
        return np.concatenate(classes).astype(np.int32)

    def predictions(self, features: LayerFeatures) -> Predictions:
        """Returns the classes of the images beside their labels."""
        return Predictions.of(map(self.scores, features.read_all()), features.labels)

    def accuracy(self, features: LayerFeatures) -> float:
        """Returns the share of the images whose class is right."""
        return float((self.predict(features) == features.labels).mean())


@dataclasses.dataclass(frozen=True, repr=False)
class LinearProbe(Probe):
    """A trained linear classifier.

    Attributes:
        weights: float32 [k · d, C].
        bias: float32 [C].
    """

    weights: np.ndarray
    bias: np.ndarray

    def save(self, file: str | os.PathLike) -> None:
        """Writes `weights` and `bias` to a .npz file, replacing an earlier one."""
        with atomic_path(file, overwrite=True) as partial, open(partial, "wb") as opened:
            np.savez(opened, weights=self.weights, bias=self.bias)

    def as_model(self) -> keras.Model:
        """Returns a Keras model from features float32 [N, k · d] to class logits [N, C]."""
        width, num_classes = self.weights.shape
        linear = keras.layers.Dense(num_classes, name="class_head", dtype="float32")
        model = keras.Sequential([keras.Input((width,)), linear])
        linear.set_weights([self.weights, self.bias])
        return model

    def scores(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weights + self.bias


def load_probe(file: str | os.PathLike) -> LinearProbe:
    """Reads what `LinearProbe.save` wrote. The setting and the accuracy stand in `result.json`.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        with np.load(file) as arrays:
            return LinearProbe(arrays["weights"], arrays["bias"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} is not a probe: {error}") from None


@dataclasses.dataclass(frozen=True)
class ProbeSplits:
    """Features to train probes on, to choose them by, and to measure them on.

    Attributes:
        train: Features to train on.
        validation: Features to choose by.
        test: Features to measure on.
        num_classes: C; labels lie in 0…C - 1.

    Raises:
        InputError: Labels out of that range, or of a single class.
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
        """Returns the same splits with only these layers."""
        layers = list(layers)
        return ProbeSplits(
            self.train.select(layers),
            self.validation.select(layers),
            self.test.select(layers),
            self.num_classes,
        )


def best_layer(probes: dict[int, Probe]) -> int:
    """Returns the layer of the highest validation accuracy; of equal ones, the first."""
    return min(probes, key=lambda layer: (-probes[layer].validation_accuracy, layer))


def layers_around(layer: int, count: int, num_layers: int) -> list[int]:
    """Returns `count` layers centered at `layer`, or as near as 0…`num_layers` allows.

    The paper concatenates them (section 4.4).

    Raises:
        InputError: There are fewer layers.
    """
    if not 1 <= count <= num_layers + 1:
        raise InputError(f"count must lie in 1…{num_layers + 1}, got {count}")
    first = min(max(layer - count // 2, 0), num_layers + 1 - count)
    return list(range(first, first + count))
