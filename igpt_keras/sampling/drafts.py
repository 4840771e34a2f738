"""Drafts: cheap predictors that guess the next tokens before the model checks them.

A draft changes how many passes of the model a completion takes, never its tokens; see
`igpt_keras.sampling.speculative`. Shapes: B sequences, n positions, V tokens in the vocabulary.
Tokens of a decoding state are int32 [n, B], the position first.
"""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalOperand=false

import abc
import math
import os
import zipfile
from typing import Any, cast

import numpy as np
from keras import ops

from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.network.protocols import TokenModel
from igpt_keras.sampling.backends import backend
from igpt_keras.sampling.checks import check_autoregressive
from igpt_keras.sampling.decoder import cache_specs, decode_step, grow, prefill, repeat
from igpt_keras.sampling.graphs import kept_by_model
from igpt_keras.sampling.requests import check_positive
from igpt_keras.tensors import Tensor

# Offsets (rows, columns) of a token's neighbors: left, above, above left, above right.
NEIGHBORS = ((0, -1), (-1, 0), (-1, -1), (-1, 1))
# Each row of counts starts with this many tokens of the average distribution.
PRIOR_COUNT = 5.0
# The weights of the tables are fitted to at most this many tokens.
MAX_FITTED_TOKENS = 4096
NEWTON_STEPS = 10


class Draft(abc.ABC):
    """The base class of drafts, for the argument `draft` of `model.generate`.

    A draft is traced into the compiled decoder. Its state between two passes is a structure of
    tensors, which it is given and returns.

    Attributes:
        window: The number of positions in a pass of the model. With more of them a pass settles
            more tokens and takes longer; `benchmarks/speculate.py` measures both.
    """

    window = 16

    @abc.abstractmethod
    def check(self, config: ImageGPTConfig) -> None:
        """Raises `InputError` for a model whose tokens the draft cannot guess."""

    @abc.abstractmethod
    def begin(self, tokens: Tensor, prefix: Tensor, num_completions: Tensor) -> Any:
        """Returns the state for tokens of which a prefix is known.

        Args:
            tokens: int32 [B, n].
            prefix: An integer or int32 scalar, the number of known tokens.
            num_completions: How often the decoder holds each sequence, one after the other.
        """

    @abc.abstractmethod
    def spec(self) -> Any:
        """Returns the state as `backend.TensorSpec`s for any number of sequences."""

    @property
    def weights(self) -> list[Any]:
        """The Keras variables that the draft reads; none by default."""
        return []

    @abc.abstractmethod
    def logits(self, state: Any, tokens: Tensor, start: Tensor, count: int) -> tuple[Tensor, Any]:
        """Returns logits at some positions, each given the tokens before it.

        Args:
            state: The state from `begin` or the last call.
            tokens: int32 [n, B]. Since the last call, the `window` tokens before `start` and any
                after it may have changed.
            start: int32 scalar, the first of the positions.
            count: The number of positions, at most n.

        Returns:
            float32 [count, B, V], and the new state.
        """


class ModelDraft(Draft):
    """A draft by an autoregressive model that is much smaller than the one that checks.

    `model.generate` makes one from a model given as `draft`.

    Args:
        model: An autoregressive model with a token head.

    Example:
        ```python
        draft = ModelDraft(small_model)
        draft.window = 8
        completions = model.generate(images, keep_rows=16, draft=draft)
        ```
    """

    def __init__(self, model: TokenModel):
        check_autoregressive(model)
        self.model = model

    @property
    def weights(self) -> list[Any]:
        return self.model.weights

    def check(self, config: ImageGPTConfig) -> None:
        _check_sizes(self.model.config, config)

    def begin(self, tokens: Tensor, prefix: Tensor, num_completions: Tensor) -> Any:
        config = self.model.config
        _, caches = prefill(self.model, tokens[:, :prefix])
        return grow(repeat(caches, config.num_heads, num_completions), config.sequence_length)

    def spec(self) -> Any:
        return cache_specs(self.model)

    def logits(self, state: Any, tokens: Tensor, start: Tensor, count: int) -> tuple[Tensor, Any]:
        length = self.model.config.sequence_length
        # The tokens of the last window may have changed.
        num_positions = min(self.window + count, length)
        first = ops.clip(start - self.window, 0, length - num_positions)
        previous = backend.take(tokens, ops.maximum(first - 1 + ops.arange(num_positions), 0))
        logits, caches = decode_step(self.model, ops.transpose(previous), first, state)
        logits = backend.take(logits, start - first + ops.arange(count), axis=1)
        return ops.transpose(logits, (1, 0, 2)), caches


class NeighborDraft(Draft):
    """Predicts a token from its position and the four neighbors before it in raster order.

    The logits are sums of table rows, one for the position and one for each neighbor: a lookup
    instead of a network.

    Args:
        places: float32 [n, V], by position.
        neighbors: float32 [4, V + 1, V], by the token to the left, above, above left and above
            right. The last row of each table is for a neighbor outside the image.
        columns: The number of tokens in a row; None for as many as there are rows.

    Raises:
        InputError: A table has another shape or is not finite, or rows of `columns` tokens do
            not make n.

    Example:
        ```python
        draft = NeighborDraft.fit(model.tokenizer.tokenize(train_images), vocabulary_size=512)
        completions = model.generate(images, keep_rows=16, draft=draft)
        ```
    """

    SUFFIX = ".npz"

    def __init__(self, places: np.ndarray, neighbors: np.ndarray, columns: int | None = None):
        places, neighbors = (np.asarray(table, np.float32) for table in (places, neighbors))
        length, self.vocabulary_size = places.shape if places.ndim == 2 else (0, 0)
        expected = (len(NEIGHBORS), self.vocabulary_size + 1, self.vocabulary_size)
        if not length or neighbors.shape != expected:
            raise InputError(
                "a neighbor draft needs tables [n, V] and [4, V + 1, V], "
                f"got {list(places.shape)} and {list(neighbors.shape)}"
            )
        self.token_grid = _grid(length, columns)
        if not (np.isfinite(places).all() and np.isfinite(neighbors).all()):
            raise InputError("the tables of a neighbor draft must be finite")
        self.places = places
        self.neighbors = neighbors

    @classmethod
    def fit(
        cls, tokens: np.ndarray, vocabulary_size: int, seed: int = 0, columns: int | None = None
    ) -> "NeighborDraft":
        """Fits a draft to images by counting how often each token follows each neighbor.

        A table holds the logarithm of a token's frequency next to a neighbor relative to its
        overall frequency; rare neighbors are smoothed towards the latter. The tables are added
        with weights that maximize the likelihood of a sample of tokens.

        Args:
            tokens: int [N, n], of images like those to complete.
            vocabulary_size: V.
            seed: The seed of the sample of tokens.
            columns: The number of tokens in a row; None for as many as there are rows.

        Raises:
            InputError: The tokens have another shape or vocabulary.
        """
        tokens = _check_tokens(tokens, vocabulary_size)
        count, length = tokens.shape
        grid = _grid(length, columns)
        counts = np.bincount(tokens.ravel(), minlength=vocabulary_size) + 1 / vocabulary_size
        average = counts / counts.sum()
        contexts = [
            np.broadcast_to(np.arange(length), tokens.shape),
            *_neighbor_tokens(tokens, vocabulary_size, grid),
        ]
        sizes = [length] + [vocabulary_size + 1] * len(NEIGHBORS)
        tables = [
            _log_ratios(context, tokens, size, average)
            for context, size in zip(contexts, sizes, strict=True)
        ]
        chosen = np.random.default_rng(seed).choice(
            tokens.size, min(tokens.size, MAX_FITTED_TOKENS), replace=False
        )
        features = [
            table[context.ravel()[chosen]] for table, context in zip(tables, contexts, strict=True)
        ]
        features.append(np.broadcast_to(np.log(average), features[0].shape))
        weights = _fit_weights(np.stack(features), tokens.ravel()[chosen])
        places = weights[0] * tables[0] + weights[-1] * np.log(average)
        return cls(places, np.stack(tables[1:]) * weights[1:-1, None, None], grid[1])

    def save(self, path: str | os.PathLike, overwrite: bool = False) -> None:
        """Writes the tables into an `.npz` file, completely or not at all.

        Args:
            path: The path of the file.
            overwrite: Whether to replace an existing file.

        Raises:
            FileExistsError: `path` exists and `overwrite` is false.
        """
        with atomic_path(path, overwrite) as partial, open(partial, "wb") as file:
            columns = np.array(self.token_grid[1])
            np.savez(file, places=self.places, neighbors=self.neighbors, columns=columns)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "NeighborDraft":
        """Reads a file that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            InputError: The file does not hold a draft.
        """
        try:
            tables = np.load(path, allow_pickle=False)
            if not isinstance(tables, np.lib.npyio.NpzFile):
                raise InputError("it is one array")
            with tables:
                return cls(tables["places"], tables["neighbors"], int(tables["columns"]))
        except (ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"draft {path} is unusable: {error}") from None

    def check(self, config: ImageGPTConfig) -> None:
        _check_sizes(self, config)

    def begin(self, tokens: Tensor, prefix: Tensor, num_completions: Tensor) -> Any:
        return ()

    def spec(self) -> Any:
        return ()

    def logits(self, state: Any, tokens: Tensor, start: Tensor, count: int) -> tuple[Tensor, Any]:
        size, length = self.vocabulary_size + 1, len(self.places)
        positions = start + ops.arange(count)
        neighbors = backend.take(_neighbor_positions(self.token_grid), positions)
        colors = backend.take(tokens, ops.minimum(neighbors, length - 1))
        colors = ops.where((neighbors == length)[..., None], self.vocabulary_size, colors)
        # The four tables stacked to one.
        rows = colors + size * ops.arange(len(NEIGHBORS))[:, None]
        table = self.neighbors.reshape(-1, self.vocabulary_size)
        by_neighbors = ops.sum(backend.take(table, rows), axis=1)
        return by_neighbors + backend.take(self.places, positions)[:, None], state


def as_draft(draft: "Draft | TokenModel", config: ImageGPTConfig) -> Draft:
    """Returns a draft for models of the given sizes, from a draft or a model.

    Raises:
        InputError: It is neither, or of another size.
    """
    if not isinstance(draft, Draft) and hasattr(draft, "backbone"):
        draft = _model_draft(cast(TokenModel, draft))
    if not isinstance(draft, Draft):
        raise InputError(f"draft must be a model or a NeighborDraft, got {type(draft).__name__}")
    draft.check(config)
    return draft


@kept_by_model
def _model_draft(model: TokenModel) -> ModelDraft:
    """One draft per model, so that what is compiled for it is found again."""
    return ModelDraft(model)


def _check_sizes(draft: "NeighborDraft | ImageGPTConfig", config: ImageGPTConfig) -> None:
    found, wanted = _sizes(draft), _sizes(config)
    if found != wanted:
        raise InputError(f"draft must have the model's {wanted}, got {found}")


def _sizes(of: "NeighborDraft | ImageGPTConfig") -> str:
    rows, columns = of.token_grid
    return f"vocabulary_size={of.vocabulary_size} and {rows} × {columns} tokens of an image"


def _check_tokens(tokens, vocabulary_size) -> np.ndarray:
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or not tokens.size:
        raise InputError(f"tokens must have shape [N, n], got {list(tokens.shape)}")
    check_positive("vocabulary_size", vocabulary_size)
    if tokens.dtype.kind not in "iu" or tokens.min() < 0 or tokens.max() >= vocabulary_size:
        raise InputError(
            f"tokens must be integers in 0…{vocabulary_size - 1}, "
            f"got {tokens.dtype} in {tokens.min()}…{tokens.max()}"
        )
    return tokens.astype(np.int64)


def _grid(length: int, columns: int | None) -> tuple[int, int]:
    """Returns rows and columns of n tokens."""
    if columns is None:
        columns = math.isqrt(length)
        if columns**2 != length:
            raise InputError(f"columns must be given unless n is a square, got n={length}")
    check_positive("columns", columns)
    if length % columns:
        raise InputError(f"columns must divide the number of tokens n={length}, got {columns}")
    return length // columns, columns


def _neighbor_positions(grid: tuple[int, int]) -> np.ndarray:
    """Returns the positions of each token's neighbors, n for one outside: int32 [n, 4]."""
    length, columns = math.prod(grid), grid[1]
    here = np.divmod(np.arange(length), columns)
    positions = np.empty((length, len(NEIGHBORS)), np.int32)
    for index, (down, right) in enumerate(NEIGHBORS):
        row, column = here[0] + down, here[1] + right
        inside = (row >= 0) & (column >= 0) & (column < columns)
        positions[:, index] = np.where(inside, row * columns + column, length)
    return positions


def _neighbor_tokens(tokens, vocabulary_size, grid):
    """Returns for each kind of neighbor its tokens [N, n], V for one outside."""
    padded = np.pad(tokens, [(0, 0), (0, 1)], constant_values=vocabulary_size)
    positions = _neighbor_positions(grid)
    return [padded[:, positions[:, index]] for index in range(len(NEIGHBORS))]


def _log_ratios(context, tokens, num_contexts, average) -> np.ndarray:
    """Returns ln of the smoothed frequency of each token in each context, over `average` [V]."""
    vocabulary_size = len(average)
    pairs = np.bincount(
        (context * vocabulary_size + tokens).ravel(), minlength=num_contexts * vocabulary_size
    ).reshape(num_contexts, vocabulary_size)
    totals = pairs.sum(axis=1, keepdims=True)
    return np.log((pairs / average + PRIOR_COUNT) / (totals + PRIOR_COUNT))


def _fit_weights(features, tokens) -> np.ndarray:
    """Returns weights [F] of features [F, P, V] that maximize the likelihood of tokens [P].

    This is Newton's method on a concave function, with a weak prior for equal weights that sum
    to one.
    """
    count = len(features)
    weights = start = np.full(count, 1 / count)
    token_features = features[:, np.arange(len(tokens)), tokens]
    for _ in range(NEWTON_STEPS):
        logits = np.tensordot(weights, features, 1)
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        means = (features * probabilities).sum(axis=2)
        gradient = (token_features - means).sum(axis=1) - (weights - start)
        squares = np.einsum("ipv,jpv,pv->ij", features, features, probabilities, optimize=True)
        curvature = squares - means @ means.T + np.eye(count)
        weights = weights + np.linalg.solve(curvature, gradient)
    return weights
