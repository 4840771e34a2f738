"""What can be asked of a sampler: checks, and a seed for every completion."""

import math
from collections.abc import Sequence

import keras
import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.tokenizers.base import check_images


def check_settings(
    keep_rows: int, num_completions: int, temperature: float, top_k: int, top_p: float
) -> None:
    """Raises `InputError` for a setting of `complete` that is out of range for any model."""
    if not is_integer(keep_rows) or not 0 <= keep_rows < 1 << 31:
        raise InputError(f"keep_rows must be an integer >= 0, got {keep_rows}")
    if not is_integer(num_completions) or num_completions < 1:
        raise InputError(f"num_completions must be an integer >= 1, got {num_completions}")
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise InputError(f"temperature must be finite and >= 0, got {temperature}")
    if not is_integer(top_k) or not 0 <= top_k < 1 << 31:
        raise InputError(f"top_k must be an integer >= 0 (0 for all colors), got {top_k}")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p must be above 0 and at most 1, got {top_p}")


def is_integer(value) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_can_sample(model: GenerativeModel) -> None:
    """Raises `InputError` for a model that gives no next-pixel distribution in TensorFlow."""
    if model.objective != "ar":
        raise InputError('sampling needs a model with objective="ar", this one has "bert"')
    check_can_complete(model)


def check_can_complete(model: GenerativeModel) -> None:
    """Raises `InputError` for a model that gives no distribution of a pixel in TensorFlow."""
    if model.generative_weight == 0:
        raise InputError("sampling needs token logits, which a classifier with weight 0 lacks")
    check_backend()


def check_fits_objective(model: GenerativeModel, rounds: int | None, **in_raster_order) -> None:
    """Raises `InputError` for what is set that the model's objective has not.

    Args:
        rounds: only of BERT models.
        in_raster_order: by name, what only decoding pixel by pixel has.
    """
    if model.objective == "ar":
        if rounds is not None:
            raise InputError(
                f"rounds={rounds} is for BERT models; an autoregressive one goes pixel by pixel"
            )
        return
    if rounds is not None and (not is_integer(rounds) or rounds < 1):
        raise InputError(f"rounds must be an integer >= 1, got {rounds}")
    for name, value in in_raster_order.items():
        if value:
            raise InputError(
                f"{name} is for autoregressive models; a BERT model fills pixels in rounds"
            )


def check_backend() -> None:
    """Raises `InputError` unless Keras runs on TensorFlow, whose graphs sampling and export use."""
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            "sampling and export need Keras' TensorFlow backend, "
            f"got KERAS_BACKEND={keras.backend.backend()}"
        )


def check_model_images(model: GenerativeModel, images) -> np.ndarray:
    """Images of the model's size, uint8 [B, R, R, 3] with B ≥ 1; else raises `InputError`."""
    images = check_images(images)
    size = model.config.image_size
    if images.ndim != 4 or images.shape[1:3] != (size, size) or not len(images):
        raise InputError(
            f"images must have shape [batch, {size}, {size}, 3] with at least one image "
            f"(image_size={size}), got {list(images.shape)}"
        )
    return images


def known_pixels(keep_rows: int | None, known, num_images: int, image_size: int) -> np.ndarray:
    """What is known of images, as a mask: bool [B, n].

    Args:
        keep_rows: number of rows known, 0…R, or None.
        known: bool [R, R] for all images or [B, R, R], or None.
        num_images: B.
        image_size: R.

    Raises:
        InputError: neither or both given, rows out of range, or another shape or dtype.
    """
    if (keep_rows is None) == (known is None):
        raise InputError(
            "exactly one of keep_rows and known must be given, "
            f"got {'neither' if known is None else 'both'}"
        )
    shape = (num_images, image_size, image_size)
    if known is None:
        if keep_rows > image_size:
            raise InputError(
                f"keep_rows must lie in 0…{image_size} (the image's height), got {keep_rows}"
            )
        known = np.broadcast_to((np.arange(image_size) < keep_rows)[:, None], shape[1:])
    known = np.asarray(known)
    if known.dtype != bool or known.shape not in (shape, shape[1:]):
        raise InputError(
            f"known must be boolean of shape {list(shape[1:])} or {list(shape)}, "
            f"got {known.dtype} of shape {list(known.shape)}"
        )
    return np.broadcast_to(known, shape).reshape(num_images, -1)


def completion_seeds(
    seed: int | Sequence[int], num_images: int, num_completions: int
) -> np.ndarray:
    """One seed for every completion: int64 [B, N], a hash of the image's seed and its number.

    Raises:
        InputError: a negative seed, or not one seed per image.
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
