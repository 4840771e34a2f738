"""Baselines: count-based models of images, and probes of images without a model.

`BASELINES` holds the count-based models and `PROBE_BASELINES` the features of the probes, each by
name.
"""

import abc
from typing import Any, ClassVar, Literal

import numpy as np

from igpt_keras.data.labeled import LabeledImages, LabeledTokens
from igpt_keras.evaluation.probe_features import LayerFeatures
from igpt_keras.evaluation.probe_methods import fit_probe
from igpt_keras.evaluation.probe_methods.lbfgs import LBFGS
from igpt_keras.evaluation.probes import ProbeSplits
from igpt_keras.registry import Registry
from igpt_keras.tokenizers import ImageTokenizer


class CountBaseline(abc.ABC):
    """A distribution of each token given a context, from counts in training images.

    Counts start at 1 (Laplace).

    Args:
        tokens: Training images, int [N, rows, columns].
        vocabulary_size: V; as a context, V stands for "none".
    """

    def __init__(self, tokens: np.ndarray, vocabulary_size: int):
        self.vocabulary_size = vocabulary_size
        counts = np.ones((vocabulary_size + 1, vocabulary_size))
        np.add.at(counts, (self.context(tokens).ravel(), tokens.ravel()), 1)
        self.probabilities = counts / counts.sum(axis=1, keepdims=True)

    @abc.abstractmethod
    def context(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the context of each of int [N, rows, columns], a number in 0…V."""

    def loss(self, tokens: np.ndarray) -> float:
        """Returns the mean negative log-likelihood in nats per token."""
        return float(-np.log(self.probabilities[self.context(tokens), tokens]).mean())


BASELINES: Registry[type[CountBaseline]] = Registry("baseline")


@BASELINES.register("uniform")
class Uniform(CountBaseline):
    """All tokens are equally likely."""

    def __init__(self, tokens: np.ndarray, vocabulary_size: int):
        self.vocabulary_size = vocabulary_size

    def context(self, tokens: np.ndarray) -> np.ndarray:
        return np.zeros_like(tokens)

    def loss(self, tokens: np.ndarray) -> float:
        return float(np.log(self.vocabulary_size))


@BASELINES.register("unigram")
class Unigram(CountBaseline):
    """A token has the same distribution everywhere."""

    def context(self, tokens: np.ndarray) -> np.ndarray:
        return np.zeros_like(tokens)


@BASELINES.register("left token")
class LeftToken(CountBaseline):
    """The context is the token on the left."""

    def context(self, tokens: np.ndarray) -> np.ndarray:
        padding = [(0, 0), (0, 0), (1, 0)]
        return np.pad(tokens, padding, constant_values=self.vocabulary_size)[:, :, :-1]


@BASELINES.register("token above")
class TokenAbove(CountBaseline):
    """The context is the token above."""

    def context(self, tokens: np.ndarray) -> np.ndarray:
        padding = [(0, 0), (1, 0), (0, 0)]
        return np.pad(tokens, padding, constant_values=self.vocabulary_size)[:, :-1]


def generative_baselines(
    tokens: np.ndarray, held_out: np.ndarray, vocabulary_size: int, grid: tuple[int, int]
) -> dict[str, float]:
    """Returns the losses of all count-based models, in nats per token, by name.

    Args:
        tokens: Training images, int [N, n].
        held_out: Images to measure the losses on, int [M, n].
        vocabulary_size: V.
        grid: Rows and columns of tokens; n is their product.
    """
    train, test = (np.reshape(x, (-1, *grid)).astype(np.int32) for x in (tokens, held_out))
    return {
        name: BASELINES.get(name)(train, vocabulary_size).loss(test) for name in BASELINES.names()
    }


class ProbeBaseline(abc.ABC):
    """Features of images that a probe is trained on instead of a model's."""

    reads: ClassVar[Literal["images", "tokens"]]

    @abc.abstractmethod
    def features(self, split: Any, tokenizer: ImageTokenizer | None) -> np.ndarray:
        """Returns float features [N, d].

        Args:
            split: `LabeledImages` or `LabeledTokens`, as `reads` says.
            tokenizer: The tokenizer of the model; baselines of images may get None.
        """


PROBE_BASELINES: Registry[type[ProbeBaseline]] = Registry("baseline")


@PROBE_BASELINES.register("pixels")
class Pixels(ProbeBaseline):
    """Raw pixels, [N, R · R · 3]."""

    reads = "images"

    def features(self, split: LabeledImages, tokenizer: ImageTokenizer | None) -> np.ndarray:
        return split.images.reshape(len(split.images), -1)


@PROBE_BASELINES.register("tokens")
class Tokens(ProbeBaseline):
    """Pixels of the detokenized images, [N, R · R · 3]: what the model sees of an image.

    One-hot tokens would be n · V wide.
    """

    reads = "tokens"

    def features(self, split: LabeledTokens, tokenizer: ImageTokenizer | None) -> np.ndarray:
        assert tokenizer is not None
        return tokenizer.detokenize(split.tokens).reshape(len(split.tokens), -1)


def raw_pixel_accuracy(
    train: LabeledImages, validation: LabeledImages, test: LabeledImages
) -> float:
    """Returns the test accuracy of logistic regression on raw pixels.

    Args:
        train: Images to train on.
        validation: Images to choose the regularization by.
        test: Images to measure on.
    """
    features = [
        LayerFeatures([Pixels().features(split, None)], split.labels)
        for split in (train, validation, test)
    ]
    num_classes = 1 + max(int(split.labels.max()) for split in features)
    splits = ProbeSplits(features[0], features[1], features[2], num_classes)
    return fit_probe(LBFGS(), splits).accuracy(splits.test)
