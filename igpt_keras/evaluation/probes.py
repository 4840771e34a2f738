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
from igpt_keras.evaluation.probe_features import Features
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
        """Returns scores of the classes, float [m, C], of what `Features.read` returns.

        The highest one is the class of the image.
        """

    def predict(self, features: Features) -> np.ndarray:
        """Returns the classes of the images: int32 [N]."""
        classes = [self.scores(x).argmax(axis=1) for x in features.read_all()]
        return np.concatenate(classes).astype(np.int32)

    def predictions(self, features: Features) -> Predictions:
        """Returns the classes of the images beside their labels."""
        return Predictions.of(map(self.scores, features.read_all()), features.labels)

    def accuracy(self, features: Features) -> float:
        """Returns the share of the images whose class is right."""
        return float((self.predict(features) == features.labels).mean())


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class StoredProbe(Probe):
    """A trained classifier that consists of arrays: the fields that it adds."""

    def arrays(self) -> list[np.ndarray]:
        """Returns the arrays, in the order of the fields."""
        return [getattr(self, name) for name in _array_names(type(self))]

    def save(self, file: str | os.PathLike) -> None:
        """Writes the arrays to a .npz file, replacing an earlier one."""
        arrays: dict[str, Any] = dict(zip(_array_names(type(self)), self.arrays(), strict=True))
        with atomic_path(file, overwrite=True) as partial, open(partial, "wb") as opened:
            np.savez(opened, **arrays)

    @abc.abstractmethod
    def as_model(self) -> keras.Model:
        """Returns a Keras model from features, or states, to class logits [N, C]."""


@dataclasses.dataclass(frozen=True, repr=False)
class LinearProbe(StoredProbe):
    """A trained linear classifier.

    Attributes:
        weights: float32 [k · d, C].
        bias: float32 [C].
    """

    weights: np.ndarray
    bias: np.ndarray

    def as_model(self) -> keras.Model:
        """Returns a Keras model from features float32 [N, k · d] to class logits [N, C]."""
        width, num_classes = self.weights.shape
        linear = keras.layers.Dense(num_classes, name="class_head", dtype="float32")
        model = keras.Sequential([keras.Input((width,)), linear])
        linear.set_weights([self.weights, self.bias])
        return model

    def scores(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weights + self.bias


@dataclasses.dataclass(frozen=True, repr=False)
class AttentiveProbe(StoredProbe):
    """A trained linear classifier of states that attention pools, with H heads.

    Head h attends to position i with a_hi, the softmax over the positions of queries_h · x_i. The
    logits are the sum over the heads of weights_hᵀ Σ_i a_hi x_i, plus the bias. Key and value
    projections are products with the query and with the classifier here, which changes nothing.

    Attributes:
        queries: float32 [H, k · d].
        weights: float32 [H, k · d, C].
        bias: float32 [C].
    """

    queries: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def as_model(self) -> keras.Model:
        """Returns a Keras model from states float32 [N, n, k · d] to class logits [N, C]."""
        num_heads, width, num_classes = self.weights.shape
        states = keras.Input((None, width))
        query = keras.layers.Dense(num_heads, use_bias=False, name="query", dtype="float32")
        class_head = keras.layers.Dense(num_classes, name="class_head", dtype="float32")
        attention = keras.layers.Softmax(axis=1, name="attention")(query(states))
        pooled = keras.layers.Dot(axes=1)([attention, states])
        model = keras.Model(states, class_head(keras.layers.Flatten()(pooled)))
        query.set_weights([self.queries.T])
        class_head.set_weights([self.weights.reshape(num_heads * width, num_classes), self.bias])
        return model

    def attention(self, x: np.ndarray) -> np.ndarray:
        """Returns how much each head attends to each position: float32 [m, H, n].

        Args:
            x: States, float32 [m, n, k · d].
        """
        scores = self.queries @ np.swapaxes(x, 1, 2)
        exponents = np.exp(scores - scores.max(axis=2, keepdims=True))
        return exponents / exponents.sum(axis=2, keepdims=True)

    def scores(self, x: np.ndarray) -> np.ndarray:
        pooled = self.attention(x) @ x
        num_heads, width, num_classes = self.weights.shape
        weights = self.weights.reshape(num_heads * width, num_classes)
        return pooled.reshape(len(x), num_heads * width) @ weights + self.bias


def load_probe(file: str | os.PathLike) -> LinearProbe | AttentiveProbe:
    """Reads what `StoredProbe.save` wrote. The setting and the accuracy stand in `result.json`.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        with np.load(file) as arrays:
            kind = AttentiveProbe if "queries" in arrays else LinearProbe
            return kind(**{name: arrays[name] for name in _array_names(kind)})
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} is not a probe: {error}") from None


def _array_names(kind: type[StoredProbe]) -> list[str]:
    described = {field.name for field in dataclasses.fields(Probe)}
    return [field.name for field in dataclasses.fields(kind) if field.name not in described]


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

    train: Features
    validation: Features
    test: Features
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
