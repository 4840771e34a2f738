"""Drafts: cheap predictors that guess the next pixels before the model checks them.

A draft only changes how many passes of the model a completion takes, never its pixels; see
`igpt_keras.sampling.speculative`. Shapes: B sequences, n positions, R = √n, V colours; tokens
in a decoder are int32 [n, B], time first.
"""

import abc
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from igpt_keras.atomic import atomic_path
from igpt_keras.config import ImageGPTConfig
from igpt_keras.errors import InputError
from igpt_keras.models import GenerativeModel
from igpt_keras.sampling.decoder import advance, grow, prefill, repeat
from igpt_keras.sampling.settings import check_can_sample, is_integer

# Rows and columns to the pixels that are looked at: left, above, above left, above right.
NEIGHBOURS = ((0, -1), (-1, 0), (-1, -1), (-1, 1))
# How many pixels of the average image a neighbour's row of counts starts with.
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
    def propose(
        self, kept: Any, tokens, window: int, first, stop, write: Callable[..., Any]
    ) -> tuple[Any, Any]:
        """Guesses the tokens at positions `first` … `stop` - 1.

        Args:
            kept: what `begin` or the last call kept.
            tokens: those before `first`; of these the last `window` - 1 may have changed since
                the last call.
            window: see `tokens`.
            first: int32 scalar.
            stop: int32 scalar, at most n - 1; nothing is guessed where it is not above `first`.
            write: `write(tokens, position, logits [B, V])` gives the tokens with what is drawn
                there.

        Returns: the tokens and what it keeps.
        """


class ModelDraft(Draft):
    """An autoregressive model, much smaller than the one that checks, with its own cache."""

    def __init__(self, model: GenerativeModel):
        check_can_sample(model)
        self.model = model

    def check(self, config: ImageGPTConfig) -> None:
        _check_sizes(self.model.config.image_size, self.model.config.vocabulary_size, config)

    def begin(self, tokens, prefix, num_completions):
        config = self.model.config
        _, caches = prefill(self.model, tokens[:, :prefix])
        return grow(repeat(caches, config.num_heads, num_completions), config.sequence_length)

    def propose(self, kept, tokens, window, first, stop, write):
        # Goes anew over what may have changed, and comes to the first position to guess.
        start = tf.clip_by_value(first + 1 - window, 0, self.model.config.sequence_length - window)
        previous = tf.gather(tokens, tf.maximum(start - 1 + tf.range(window), 0))
        logits, caches = advance(self.model, tf.transpose(previous), start, kept)
        next_logits = tf.gather(logits, tf.minimum(first - start, window - 1), axis=1)

        def step(position, tokens, next_logits, caches):
            tokens = write(tokens, position, next_logits)
            logits, caches = advance(self.model, tokens[position][:, None], position + 1, caches)
            return position + 1, tokens, logits[:, 0], caches

        _, tokens, _, caches = tf.while_loop(
            lambda position, *_: position < stop,
            step,
            (first, tokens, next_logits, caches),
            parallel_iterations=1,
        )
        return tokens, caches


class NeighbourDraft(Draft):
    """Predicts a pixel from its place and from its neighbours left, above and beside that.

    Its logits are a sum of one row for the place and one for the colour of each neighbour: a
    lookup instead of a network.

    Args:
        places: float32 [n, V].
        neighbours: float32 [4, V + 1, V], by the colour of the pixel left, above, above left,
            above right; the last row of each is for a neighbour outside the image.

    Raises:
        InputError: tables of other shapes, or not finite.
    """

    SUFFIX = ".npz"

    def __init__(self, places: np.ndarray, neighbours: np.ndarray):
        places, neighbours = (np.asarray(table, np.float32) for table in (places, neighbours))
        length, vocabulary_size = places.shape if places.ndim == 2 else (0, 0)
        self.image_size = round(length**0.5)
        self.vocabulary_size = vocabulary_size
        expected = (len(NEIGHBOURS), vocabulary_size + 1, vocabulary_size)
        if not length or self.image_size**2 != length or neighbours.shape != expected:
            raise InputError(
                "a neighbour draft needs tables [n, V] with n a square, and [4, V + 1, V], "
                f"got {list(places.shape)} and {list(neighbours.shape)}"
            )
        if not (np.isfinite(places).all() and np.isfinite(neighbours).all()):
            raise InputError("the tables of a neighbour draft must be finite")
        self.places = places
        self.neighbours = neighbours

    @classmethod
    def fit(cls, tokens: np.ndarray, vocabulary_size: int, seed: int = 0) -> "NeighbourDraft":
        """Counts how often each colour follows each neighbour.

        A table holds the logarithms of what a colour's frequency is beside a neighbour,
        relative to its frequency at all; rare neighbours are backed off to the latter. The tables
        are added with weights that maximise the likelihood of pixels of the given images.

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
            *_neighbour_tokens(tokens, vocabulary_size),
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
            np.savez(file, places=self.places, neighbours=self.neighbours)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "NeighbourDraft":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            InputError: another kind of file.
        """
        path = pathlib.Path(path)
        try:
            with np.load(path, allow_pickle=False) as tables:
                return cls(tables["places"], tables["neighbours"])
        except (ValueError, EOFError, KeyError, IndexError, AttributeError) as error:
            raise InputError(f"draft {path} is unusable: {error}") from None

    def check(self, config: ImageGPTConfig) -> None:
        _check_sizes(self.image_size, self.vocabulary_size, config)

    def begin(self, tokens, prefix, num_completions):
        return ()

    def propose(self, kept, tokens, window, first, stop, write):
        size = self.vocabulary_size + 1
        places = tf.constant(self.places)
        neighbours = tf.constant(self.neighbours.reshape(-1, self.vocabulary_size))
        first_rows = tf.range(len(NEIGHBOURS))[:, None] * size
        where = tf.constant(_neighbour_positions(self.image_size))
        outside = len(self.places)

        def step(position, tokens):
            beside = where[position]
            colors = tf.gather(tokens, tf.minimum(beside, outside - 1))
            colors = tf.where((beside == outside)[:, None], self.vocabulary_size, colors)
            logits = tf.reduce_sum(tf.gather(neighbours, colors + first_rows), axis=0)
            return position + 1, write(tokens, position, logits + places[position])

        _, tokens = tf.while_loop(
            lambda position, _: position < stop, step, (first, tokens), parallel_iterations=1
        )
        return tokens, kept


def as_draft(draft: Draft | GenerativeModel, config: ImageGPTConfig) -> Draft:
    """The draft, a model's being a `ModelDraft`; raises `InputError` if it is none for `config`."""
    if isinstance(draft, GenerativeModel):
        # Kept with the model, as what is compiled for a draft is kept with the draft.
        if not hasattr(draft, "_draft"):
            draft._draft = ModelDraft(draft)
        draft = draft._draft
    if not isinstance(draft, Draft):
        raise InputError(f"draft must be a model or a NeighbourDraft, got {type(draft).__name__}")
    draft.check(config)
    return draft


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
    if not is_integer(vocabulary_size) or vocabulary_size < 1:
        raise InputError(f"vocabulary_size must be an integer >= 1, got {vocabulary_size}")
    if tokens.dtype.kind not in "iu" or tokens.min() < 0 or tokens.max() >= vocabulary_size:
        raise InputError(
            f"tokens must be integers in 0…{vocabulary_size - 1}, "
            f"got {tokens.dtype} in {tokens.min()}…{tokens.max()}"
        )
    return tokens.astype(np.int64)


def _neighbour_positions(image_size: int) -> np.ndarray:
    """Positions of every pixel's neighbours, n for one outside: int32 [n, 4]."""
    rows, columns = np.divmod(np.arange(image_size**2), image_size)
    positions = np.empty((image_size**2, len(NEIGHBOURS)), np.int32)
    for index, (down, right) in enumerate(NEIGHBOURS):
        row, column = rows + down, columns + right
        inside = (row >= 0) & (column >= 0) & (column < image_size)
        positions[:, index] = np.where(inside, row * image_size + column, image_size**2)
    return positions


def _neighbour_tokens(tokens, vocabulary_size):
    """For each kind of neighbour, its tokens [N, n], V for one outside."""
    padded = np.pad(tokens, [(0, 0), (0, 1)], constant_values=vocabulary_size)
    positions = _neighbour_positions(round(tokens.shape[1] ** 0.5))
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
    """Weights [F] of features [F, P, V] that maximise the likelihood of tokens [P].

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
