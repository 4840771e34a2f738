"""Checks of what is asked of a model."""

from typing import Any

import keras
import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.network.protocols import TokenModel
from igpt_keras.sampling.requests import check_keep_rows, check_positive
from igpt_keras.tokenizers.image_hints import check_images, resize_hint


def check_backend(purpose: str, *names: str) -> None:
    """Raises `InputError` unless Keras runs on one of the backends that a purpose needs.

    Args:
        purpose: What needs them, such as "export".
        *names: Names of backends, as in `KERAS_BACKEND`.
    """
    if keras.backend.backend() not in names:
        raise InputError(
            f"{purpose} needs KERAS_BACKEND={' or '.join(names)}, got {keras.backend.backend()}"
        )


def check_has_token_head(model: TokenModel) -> None:
    """Raises `InputError` for a model that cannot predict tokens, or not on Keras' backend."""
    if model.generative_weight == 0:
        raise InputError("sampling needs token logits, which a classifier with weight 0 lacks")
    check_backend("sampling", "tensorflow", "jax")


def check_autoregressive(model: TokenModel) -> None:
    """Raises `InputError` for a model that has no distribution of the next token."""
    if model.objective != "ar":
        raise InputError('sampling needs a model with objective="ar", this one has "bert"')
    check_has_token_head(model)


def check_fits_objective(model: TokenModel, num_steps: int | None, **autoregressive: Any) -> None:
    """Raises `InputError` for an argument that the model's objective does not have.

    Args:
        model: The model.
        num_steps: An argument for BERT models only, or None.
        **autoregressive: Arguments for autoregressive models only; unset if false.
    """
    if model.objective == "ar":
        if num_steps is not None:
            raise InputError(
                f"num_steps={num_steps} is for BERT models; an autoregressive model samples one "
                "token after the other"
            )
        return
    if num_steps is not None:
        check_positive("num_steps", num_steps)
    for name, value in autoregressive.items():
        if value:
            raise InputError(
                f"{name} is for autoregressive models; a BERT model fills the image in num_steps "
                "steps"
            )


def check_model_images(model: TokenModel, images: np.ndarray) -> np.ndarray:
    """Returns images of the model's size, uint8 [B, R, R, 3] with B ≥ 1.

    Raises:
        InputError: Images of another shape or dtype.
    """
    images = check_images(images)
    size = model.config.image_size
    if images.ndim != 4 or images.shape[1:3] != (size, size) or not len(images):
        hint = ""
        if images.ndim == 3:
            hint = "; a single one becomes a batch by [None]"
        elif images.ndim == 4 and len(images):
            hint = f"; {resize_hint(list(images.shape), size)}"
        raise InputError(
            f"images must have shape [batch, {size}, {size}, 3] with at least one image "
            f"(image_size={size}), got {list(images.shape)}{hint}"
        )
    return images


def known_pixels(
    keep_rows: int | None, known_mask: np.ndarray | None, num_images: int, image_size: int
) -> np.ndarray:
    """Returns which pixels of images are known: bool [B, R, R].

    Args:
        keep_rows: The number of known rows of the image, 0…R, or None.
        known_mask: bool [R, R] for all images or [B, R, R], or None.
        num_images: B.
        image_size: R.

    Raises:
        InputError: Neither or both are given, there are fewer rows, or the mask has another
            shape or dtype.
    """
    if (keep_rows is None) == (known_mask is None):
        raise InputError(
            "exactly one of keep_rows and known_mask must be given, "
            f"got {'neither' if known_mask is None else 'both'}"
        )
    shape = (num_images, image_size, image_size)
    if keep_rows is not None:
        check_keep_rows(keep_rows)
        if keep_rows > image_size:
            raise InputError(
                f"keep_rows must lie in 0…{image_size} (the image's height), got {keep_rows}"
            )
        known_mask = np.broadcast_to((np.arange(image_size) < keep_rows)[:, None], shape[1:])
    known_mask = np.asarray(known_mask)
    if known_mask.dtype != bool or known_mask.shape not in (shape, shape[1:]):
        raise InputError(
            f"known_mask must be boolean of shape {list(shape[1:])} or {list(shape)}, "
            f"got {known_mask.dtype} of shape {list(known_mask.shape)}"
        )
    return np.broadcast_to(known_mask, shape)
