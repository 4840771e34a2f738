"""What the methods of a client return, besides `Completions`."""

import dataclasses

import numpy as np

from igpt_keras.short_repr import ShortRepr


@dataclasses.dataclass(frozen=True, repr=False)
class Classifications(ShortRepr):
    """Classes of B images.

    Attributes:
        class_names: The names of the C classes.
        scores: float32 [B, C], probabilities.
        logits: float32 [B, C].
    """

    class_names: list[str]
    scores: np.ndarray
    logits: np.ndarray

    @property
    def best(self) -> list[str]:
        """The most probable class of each image."""
        return [self.class_names[index] for index in self.scores.argmax(axis=1)]


@dataclasses.dataclass(frozen=True, repr=False)
class Scores(ShortRepr):
    """Likelihoods of B images under a model.

    Attributes:
        log_likelihood: float32 [B], in nats, of all tokens.
        bits_per_pixel: float32 [B], the negative log-likelihood in bits, divided by R².
    """

    log_likelihood: np.ndarray
    bits_per_pixel: np.ndarray


@dataclasses.dataclass(frozen=True, repr=False)
class PartialCompletions(ShortRepr):
    """N completions of one image of which some rows are not there yet.

    Attributes:
        num_rows: How many rows are complete, 0…R.
        images: uint8 [N, R, R, 3]. Below `num_rows`, pixels that are not known are gray.
        entropy: float32 [N, R, R], nats, of the model's distribution at each pixel (the mean of
            its tokens'), and NaN where none was sampled yet.
        log_likelihood: float32 [N], nats, of the sampled tokens; None before the last row.
        bits_per_pixel: float32 [N], the same in bits for each unknown pixel; None before the
            last row.
    """

    num_rows: int
    images: np.ndarray
    entropy: np.ndarray
    log_likelihood: np.ndarray | None = None
    bits_per_pixel: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """One version of a served model.

    Attributes:
        version: Its number.
        state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END".
        error: Why it could not be loaded; empty if it could.
    """

    version: int
    state: str
    error: str
