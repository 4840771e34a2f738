"""Drafts: cheap predictors that guess the next pixels before the model checks them.

A draft only changes how many passes of the model a completion takes, never its pixels; see
`igpt_keras.sampling.speculative`. Shapes: B sequences, n positions, R = √n, V colors; tokens
in a decoder are int32 [n, B], time first.
"""

import abc
import os
import zipfile
from typing import Any

import numpy as np
import tensorflow as tf

from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.network.protocols import TokenModel
from igpt_keras.sampling.checks import check_autoregressive
from igpt_keras.sampling.decoder import cache_specs, decode_step, grow, prefill, repeat
from igpt_keras.sampling.graphs import kept_by_model
from igpt_keras.sampling.requests import check_positive

# Rows and columns to the pixels that are looked at: left, above, above left, above right.
NEIGHBOURS = ((0, -1), (-1, 0), (-1, -1), (-1, 1))
# How many pixels of the average image a neighbor's row of counts starts with.
PRIOR_COUNT = 5.0
# The weights of the tables are fitted to at most this many pixels.
WEIGHED_PIXELS = 4096
NEWTON_STEPS = 10


class Draft(abc.ABC):
    """What `complete` takes as a draft.

    A draft is traced into the decoder's graph. What it keeps between passes is a structure of
    tensors, handed to it and back.

    Attributes:
        window: how many positions a pass of the model goes over. More settle more pixels a pass,
            and make it dearer: `benchmarks/speculate.py` measures both.
    """

    window = 16

    @abc.abstractmethod
    def check(self, config: ImageGPTConfig) -> None:
        """Raises `InputError` for a model whose pixels it cannot guess."""

    @abc.abstractmethod
    def begin(self, tokens, prefix, num_completions: int) -> Any:
        """What it keeps, after tokens int32 [B, n] of which the first `prefix` are known.

        Each sequence will stand in the decoder `num_completions` times, one after the other.
        """

    @abc.abstractmethod
    def spec(self) -> Any:
        """What it keeps as `tf.TensorSpec`s that hold for any number of sequences."""

    @abc.abstractmethod
    def logits(self, kept: Any, tokens, start, count: int) -> tuple[Any, Any]:
        """Logits at positions `start` … `start` + `count` - 1, each given the tokens before it.

        Args:
            kept: what `begin` or the last call kept.
            tokens: of the last `window` before `start`, and of those after it, any may have
                changed since the last call.
            start: int32 scalar.
            count: at most n.

        Returns: float32 [count, B, V], and what it keeps.
        """


class ModelDraft(Draft):
    """An autoregressive model, much smaller than the one that checks, with its own cache."""

    def __init__(self, model: TokenModel):
        check_autoregressive(model)
        self.model = model

    def check(self, config: ImageGPTConfig) -> None:
        _check_sizes(self.model.config.image_size, self.model.config.vocabulary_size, config)

    def begin(self, tokens, prefix, num_completions):
        config = self.model.config
        _, caches = prefill(self.model, tokens[:, :prefix])
        return grow(repeat(caches, config.num_heads, num_completions), config.sequence_length)

    def spec(self):
        return cache_specs(self.model)

    def logits(self, kept, tokens, start, count):
        length = self.model.config.sequence_length
        # Goes anew over what may have changed.
        num_anew = min(self.window + count, length)
        first = tf.clip_by_value(start - self.window, 0, length - num_anew)
        previous = tf.gather(tokens, tf.maximum(first - 1 + tf.range(num_anew), 0))
        logits, caches = decode_step(self.model, tf.transpose(previous), first, kept)
        logits = tf.gather(logits, start - first + tf.range(count), axis=1)
        return tf.transpose(logits, [1, 0, 2]), caches


class NeighborDraft(Draft):
    """Predicts a pixel from its place and from its neighbors left, above and beside that.

    Its logits are a sum of one row for the place and one for the color of each neighbor: a
    lookup instead of a network.

    Args:
        places: float32 [n, V].
        neighbors: float32 [4, V + 1, V], by the color of the pixel left, above, above left,
            above right; the last row of each is for a neighbor outside the image.

    Raises:
        InputError: tables of other shapes, or not finite.
    """

    SUFFIX = ".npz"

    def __init__(self, places: np.ndarray, neighbors: np.ndarray):
        places, neighbors = (np.asarray(table, np.float32) for table in (places, neighbors))
        length, vocabulary_size = places.shape if places.ndim == 2 else (0, 0)
        self.image_size = round(length**0.5)
        self.vocabulary_size = vocabulary_size
        expected = (len(NEIGHBOURS), vocabulary_size + 1, vocabulary_size)
        if not length or self.image_size**2 != length or neighbors.shape != expected:
            raise InputError(
                "a neighbor draft needs tables [n, V] with n a square, and [4, V + 1, V], "
                f"got {list(places.shape)} and {list(neighbors.shape)}"
            )
        if not (np.isfinite(places).all() and np.isfinite(neighbors).all()):
            raise InputError("the tables of a neighbor draft must be finite")
        self.places = places
        self.neighbors = neighbors

    @classmethod
    def fit(cls, tokens: np.ndarray, vocabulary_size: int, seed: int = 0) -> "NeighborDraft":
        """Counts how often each color follows each neighbor.

        A table holds the logarithms of what a color's frequency is beside a neighbor,
        relative to its frequency at all; rare neighbors are backed off to the latter. The tables
        are added with weights that maximize the likelihood of pixels of the given images.

        Args:
            tokens: int [N, n], of images like those to be completed.
            vocabulary_size: V.
            seed: of the choice of these pixels.

        Raises:
            InputError: tokens of another shape or vocabulary.
        """
        tokens = _check_tokens(tokens, vocabulary_size)
        count, length = tokens.shape
        counts = np.bincount(tokens.ravel(), minlength=vocabulary_size) + 1 / vocabulary_size
        average = counts / counts.sum()
        contexts = [
            np.broadcast_to(np.arange(length), tokens.shape),
            *_neighbor_tokens(tokens, vocabulary_size),
        ]
        sizes = [length] + [vocabulary_size + 1] * len(NEIGHBOURS)
        tables = [
            _log_ratios(context, tokens, size, average)
            for context, size in zip(contexts, sizes, strict=True)
        ]
        chosen = np.random.default_rng(seed).choice(
            tokens.size, min(tokens.size, WEIGHED_PIXELS), replace=False
        )
        features = [
            table[context.ravel()[chosen]] for table, context in zip(tables, contexts, strict=True)
        ]
        features.append(np.broadcast_to(np.log(average), features[0].shape))
        weights = _fit_weights(np.stack(features), tokens.ravel()[chosen])
        places = weights[0] * tables[0] + weights[-1] * np.log(average)
        return cls(places, np.stack(tables[1:]) * weights[1:-1, None, None])

    def save(self, path: str | os.PathLike, overwrite: bool = False) -> None:
        """Writes the tables as one `.npz`, whole or not at all.

        Raises:
            FileExistsError: `path` exists and `overwrite` is false.
        """
        with atomic_path(path, overwrite) as partial, open(partial, "wb") as file:
            np.savez(file, places=self.places, neighbors=self.neighbors)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "NeighborDraft":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            InputError: another kind of file.
        """
        try:
            tables = np.load(path, allow_pickle=False)
            if not isinstance(tables, np.lib.npyio.NpzFile):
                raise InputError("it is one array")
            with tables:
                return cls(tables["places"], tables["neighbors"])
        except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"draft {path} is unusable: {error}") from None

    def check(self, config: ImageGPTConfig) -> None:
        _check_sizes(self.image_size, self.vocabulary_size, config)

    def begin(self, tokens, prefix, num_completions):
        return ()

    def spec(self):
        return ()

    def logits(self, kept, tokens, start, count):
        size, length = self.vocabulary_size + 1, len(self.places)
        positions = start + tf.range(count)
        beside = tf.gather(_neighbor_positions(self.image_size), positions)
        colors = tf.gather(tokens, tf.minimum(beside, length - 1))
        colors = tf.where((beside == length)[..., None], self.vocabulary_size, colors)
        # One table of all four below each other.
        rows = colors + size * tf.range(len(NEIGHBOURS))[:, None]
        table = self.neighbors.reshape(-1, self.vocabulary_size)
        of_neighbors = tf.reduce_sum(tf.gather(table, rows), axis=1)
        return of_neighbors + tf.gather(self.places, positions)[:, None], kept


def as_draft(draft: "Draft | TokenModel", config: ImageGPTConfig) -> Draft:
    """Returns a draft for models of the given sizes, from a draft or a model.

    Raises:
        InputError: It is neither, or of another size.
    """
    if hasattr(draft, "backbone"):
        draft = _model_draft(draft)
    if not isinstance(draft, Draft):
        raise InputError(f"draft must be a model or a NeighborDraft, got {type(draft).__name__}")
    draft.check(config)
    return draft


@kept_by_model
def _model_draft(model: TokenModel) -> ModelDraft:
    """One draft per model, so that what is compiled for it is found again."""
    return ModelDraft(model)


def _check_sizes(image_size, vocabulary_size, config):
    if (image_size, vocabulary_size) != (config.image_size, config.vocabulary_size):
        raise InputError(
            f"draft must have the model's image_size={config.image_size} and "
            f"vocabulary_size={config.vocabulary_size}, got {image_size} and {vocabulary_size}"
        )


def _check_tokens(tokens, vocabulary_size) -> np.ndarray:
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or not tokens.size or round(tokens.shape[1] ** 0.5) ** 2 != tokens.shape[1]:
        raise InputError(f"tokens must have shape [N, n], n a square, got {list(tokens.shape)}")
    check_positive("vocabulary_size", vocabulary_size)
    if tokens.dtype.kind not in "iu" or tokens.min() < 0 or tokens.max() >= vocabulary_size:
        raise InputError(
            f"tokens must be integers in 0…{vocabulary_size - 1}, "
            f"got {tokens.dtype} in {tokens.min()}…{tokens.max()}"
        )
    return tokens.astype(np.int64)


def _neighbor_positions(image_size: int) -> np.ndarray:
    """Positions of every pixel's neighbors, n for one outside: int32 [n, 4]."""
    rows, columns = np.divmod(np.arange(image_size**2), image_size)
    positions = np.empty((image_size**2, len(NEIGHBOURS)), np.int32)
    for index, (down, right) in enumerate(NEIGHBOURS):
        row, column = rows + down, columns + right
        inside = (row >= 0) & (column >= 0) & (column < image_size)
        positions[:, index] = np.where(inside, row * image_size + column, image_size**2)
    return positions


def _neighbor_tokens(tokens, vocabulary_size):
    """For each kind of neighbor, its tokens [N, n], V for one outside."""
    padded = np.pad(tokens, [(0, 0), (0, 1)], constant_values=vocabulary_size)
    positions = _neighbor_positions(round(tokens.shape[1] ** 0.5))
    return [padded[:, positions[:, index]] for index in range(len(NEIGHBOURS))]


def _log_ratios(context, tokens, num_contexts, average) -> np.ndarray:
    """ln of the smoothed frequency of each token in each context, over `average` [V]."""
    vocabulary_size = len(average)
    pairs = np.bincount(
        (context * vocabulary_size + tokens).ravel(), minlength=num_contexts * vocabulary_size
    ).reshape(num_contexts, vocabulary_size)
    totals = pairs.sum(axis=1, keepdims=True)
    return np.log((pairs / average + PRIOR_COUNT) / (totals + PRIOR_COUNT))


def _fit_weights(features, tokens) -> np.ndarray:
    """Weights [F] of features [F, P, V] that maximize the likelihood of tokens [P].

    Newton's method on a concave function, with a weak pull to equal weights that sum to one.
    """
    count = len(features)
    weights = start = np.full(count, 1 / count)
    of_tokens = features[:, np.arange(len(tokens)), tokens]
    for _ in range(NEWTON_STEPS):
        logits = np.tensordot(weights, features, 1)
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        means = (features * probabilities).sum(axis=2)
        gradient = (of_tokens - means).sum(axis=1) - (weights - start)
        squares = np.einsum("ipv,jpv,pv->ij", features, features, probabilities, optimize=True)
        curvature = squares - means @ means.T + np.eye(count)
        weights = weights + np.linalg.solve(curvature, gradient)
    return weights
