"""What a request for completions consists of, and what answers it.

The module imports neither Keras nor TensorFlow, so that a client of a server can use it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.short_repr import ShortRepr

# The label of an image of any class, as in `network.layers`, which needs Keras.
NO_CLASS = -1
# A scale travels as a float32.
MAX_GUIDANCE_SCALE = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True, repr=False)
class Completions(ShortRepr):
    """N completions of each of B images.

    Likelihoods and entropies are those of the model's own distribution, before a sampler
    filters it: for an autoregressive model given all earlier tokens, for a BERT model given the
    tokens that were known before the step that filled the token.

    Attributes:
        images: uint8 [B, N, R, R, 3]. Unless each token is a pixel, known pixels are those that
            were given.
        tokens: int32 [B, N, n], sampled where they stand for an unknown pixel.
        log_likelihood: float32 [B, N], nats, of the sampled tokens.
        total_log_likelihood: float32 [B, N], nats, of all tokens. None from a server and from a
            BERT model, which has no likelihood of an image.
        entropy: float32 [B, N, rows, columns], nats, of the distribution at each token of the
            grid (each pixel, with a color palette). A BERT model sees the known tokens, so
            their entropy is 0. None from a server.
        num_forward_passes: How often the model ran to fill the unknown tokens: once for each
            position from the first unknown one on, less often with a draft, and once a step for
            a BERT model. None from a server.
    """

    images: np.ndarray
    tokens: np.ndarray
    log_likelihood: np.ndarray
    total_log_likelihood: np.ndarray | None = None
    entropy: np.ndarray | None = None
    num_forward_passes: int | None = None


def is_integer(value: Any) -> bool:
    """Returns whether `value` is an integer of Python or NumPy, but not a boolean."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_positive(name: str, value: Any) -> None:
    """Raises `InputError` unless the argument called `name` is an integer of at least 1."""
    if not is_integer(value) or value < 1:
        raise InputError(f"{name} must be an integer >= 1, got {value}")


def check_keep_rows(keep_rows: Any) -> None:
    """Raises `InputError` for a number of rows that no model can keep."""
    if not is_integer(keep_rows) or not 0 <= keep_rows < 1 << 31:
        raise InputError(f"keep_rows must be an integer >= 0, got {keep_rows}")


def check_guidance_scale(guidance_scale: Any, labels: Any) -> None:
    """Raises `InputError` for a scale that does not go with labels, None for no classes."""
    is_number = isinstance(guidance_scale, int | float | np.number)
    if not is_number or not 0 <= guidance_scale <= MAX_GUIDANCE_SCALE:
        raise InputError(f"guidance_scale must be a finite number >= 0, got {guidance_scale}")
    if labels is None and guidance_scale != 1:
        raise InputError(
            f"guidance_scale={guidance_scale} needs labels: it says how much a class counts"
        )


def class_numbers(labels: Sequence[str | int], class_names: Sequence[str]) -> list[int]:
    """Returns the numbers of classes that are given by name or number.

    Args:
        labels: Names, and numbers as integers or in digits. A name goes before a number.
        class_names: The names of all classes in order.

    Raises:
        InputError: There is no such class.

    Example:
        >>> class_numbers(["dog", 0, "1"], ["cat", "dog"])
        [1, 0, 1]
    """
    numbers = {str(number): number for number in range(len(class_names))}
    named = numbers | {name: number for number, name in enumerate(class_names)}
    for label in labels:
        if str(label) not in (numbers if is_integer(label) else named):
            shown = ", ".join(class_names[:10]) + (", …" if len(class_names) > 10 else "")
            raise InputError(
                f"labels must be names of classes, {shown}, or numbers in "
                f"0…{len(class_names) - 1}; got {label}"
            )
    return [int(label) if is_integer(label) else named[str(label)] for label in labels]


def completion_seeds(
    seed: int | Sequence[int] | np.ndarray, num_images: int, num_completions: int
) -> np.ndarray:
    """Returns one seed for each completion, a hash of the image's seed and its number.

    Args:
        seed: One integer per image, or one integer s for the seeds s, s + 1, …; not negative.
        num_images: B.
        num_completions: N, completions of each image.

    Returns:
        int64 [B, N].

    Raises:
        InputError: A seed is negative, or there is not one seed per image.

    Example:
        ```python
        completion_seeds(0, num_images=2, num_completions=3).shape  # (2, 3)
        ```
    """
    seeds = np.asarray(seed)
    if seeds.dtype.kind not in "iu" or (seeds < 0).any():
        raise InputError(f"seed must be an integer of at least 0, or one per image, got {seed}")
    if seeds.ndim == 0:
        seeds = seeds + np.arange(num_images)
    if seeds.shape != (num_images,):
        raise InputError(f"seed must hold one integer per image ({num_images}), got {seed}")

    def mix(image_seed, number):
        state = np.random.SeedSequence([int(image_seed), number]).generate_state(1, np.uint64)
        return state[0] >> np.uint64(1)

    mixed = [[mix(image_seed, number) for number in range(num_completions)] for image_seed in seeds]
    return np.array(mixed, dtype=np.int64)
