"""Sampling from the images of a class: labels, and classifier-free guidance.

Guidance draws tokens from the logits uncond + s · (cond - uncond), where s is the guidance scale.
It amplifies what sets the logits given the class apart from those given none (Ho and Salimans,
2022, https://arxiv.org/abs/2207.12598, whose w is s - 1). Both come from one pass over a batch of
more sequences: those with guidance follow once more, without a class. With s = 1 there are none.

Shapes: B sequences, G of them with guidance, p or k positions, V tokens in the vocabulary.
"""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalMemberAccess=false

from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import ops

from igpt_keras.errors import InputError
from igpt_keras.network.layers import NO_CLASS
from igpt_keras.network.protocols import TokenModel
from igpt_keras.sampling.backends import backend
from igpt_keras.sampling.decoder import Caches, decode_step, prefill
from igpt_keras.sampling.requests import check_guidance_scale
from igpt_keras.tensors import Tensor

Conditioning = Literal["none", "class", "guided"]


class Condition(NamedTuple):
    """The classes of B sequences, a part of a decoding state; () stands for no classes."""

    labels: Tensor  # int32 [B], -1 for no class
    guidance_scale: Any = ()  # float32 [B]; () where there is no guidance
    guided: Any = ()  # int32 [G], the numbers of the sequences with guidance, ascending


class Logits(NamedTuple):
    """Logits float32 [B, k, V], each for the token at its position given those before it."""

    of_model: Tensor  # the model's own, of the sequence's class
    guided: Tensor  # what tokens are drawn from


def make_condition(
    model: TokenModel, labels: Any, guidance_scale: float, num_images: int
) -> Condition | tuple[()]:
    """Returns the classes of images for the decoder, after checking them.

    Args:
        model: An autoregressive model.
        labels: An integer for all images, one for each, or None.
        guidance_scale: s.
        num_images: B.

    Raises:
        InputError: The model has no such classes, there is not one for each image, or
            `guidance_scale` is negative, not finite, or not 1 without labels.
    """
    check_guidance_scale(guidance_scale, labels)
    if labels is None:
        return ()
    values = image_labels(model, labels, num_images)
    if guidance_scale == 1:
        return Condition(values)
    scales = np.full(num_images, guidance_scale, np.float32)
    return Condition(values, scales, np.arange(num_images, dtype=np.int32))


def image_labels(model: TokenModel, labels: Any, num_images: int) -> np.ndarray:
    """Returns the class of each image, int32 [B].

    Args:
        model: A model.
        labels: An integer for all images, or one for each.
        num_images: B.

    Raises:
        InputError: The model is not conditioned on classes, or labels are not as above.
    """
    count = model.config.num_classes
    if count is None:
        raise InputError(
            "labels needs a model that was made with num_classes; this one has no classes, "
            f"got labels={labels}"
        )
    values = np.asarray(labels)
    if values.dtype.kind not in "iu" or values.shape not in ((), (num_images,)):
        raise InputError(
            f"labels must be an integer in 0…{count - 1}, or one for each of {num_images} images, "
            f"got {labels}"
        )
    if values.size and (values.min() < 0 or values.max() >= count):
        raise InputError(
            f"labels must lie in 0…{count - 1} (num_classes={count}), "
            f"got {values.min()}…{values.max()}"
        )
    return np.broadcast_to(values, (num_images,)).astype(np.int32)


def conditioning_of(condition: Condition | tuple[()]) -> Conditioning:
    """Returns the kind of a condition, on which the compiled graph depends."""
    if not isinstance(condition, Condition):
        return "none"
    return "class" if isinstance(condition.guidance_scale, tuple) else "guided"


def condition_spec(
    conditioning: Conditioning, num_sequences: int | None = None
) -> Condition | tuple[()]:
    """Returns shapes and dtypes of a condition of `num_sequences` sequences, None for any."""
    if conditioning == "none":
        return ()
    labels = backend.TensorSpec([num_sequences], "int32")
    if conditioning == "class":
        return Condition(labels)
    scales = backend.TensorSpec([num_sequences], "float32")
    return Condition(labels, scales, backend.TensorSpec([None], "int32"))


def conditioned_prefill(
    model: TokenModel, tokens: Tensor, condition: Condition | tuple[()]
) -> tuple[Logits, Caches]:
    """`decoder.prefill` of sequences with classes.

    Args:
        model: An autoregressive model with a token head.
        tokens: int32 [B, p].
        condition: The classes of the sequences.

    Returns:
        Logits, and caches of the sequences; those with guidance have further ones, which follow.
    """
    logits, caches = prefill(model, _with_guided(tokens, condition), _labels(condition))
    return _logits(logits, condition), caches


def conditioned_step(
    model: TokenModel, tokens: Tensor, start: Tensor, caches: Caches, condition: Any
) -> tuple[Logits, Caches]:
    """`decoder.decode_step` of sequences with classes.

    Args:
        model: As for `conditioned_prefill`.
        tokens: int32 [B, k], as for `decode_step`.
        start: int32 scalar, the first of the new positions.
        caches: Those of `conditioned_prefill`.
        condition: The classes of the sequences.
    """
    labels = _labels(condition)
    tokens = _with_guided(tokens, condition)
    logits, caches = decode_step(model, tokens, start, caches, labels)
    return _logits(logits, condition), caches


def repeat_condition(condition: Any, count: Tensor) -> Any:
    """Returns the classes of each sequence `count` times, one after the other."""
    repeated = keras.tree.map_structure(lambda values: ops.repeat(values, count), condition)
    if conditioning_of(condition) != "guided":
        return repeated
    guided = condition.guided[:, None] * count + ops.arange(count)
    return repeated._replace(guided=ops.reshape(guided, (-1,)))


def _with_guided(tokens, condition):
    """Tokens [B, k], and once more those with guidance: [B + G, k]."""
    if conditioning_of(condition) == "guided":
        return ops.concatenate([tokens, backend.take(tokens, condition.guided)])
    return tokens


def _labels(condition):
    """The classes of the sequences in a pass; None where no sequence has one."""
    conditioning = conditioning_of(condition)
    if conditioning == "none":
        return None
    labels = condition.labels
    if conditioning == "guided":
        labels = ops.concatenate([labels, ops.full_like(condition.guided, NO_CLASS)])
    return labels


def _logits(logits, condition) -> Logits:
    if conditioning_of(condition) != "guided":
        return Logits(logits, logits)
    count = ops.shape(condition.labels)[0]
    of_class, of_none = logits[:count], logits[count:]
    scale = backend.take(condition.guidance_scale, condition.guided)[:, None, None]
    guided = of_none + scale * (backend.take(of_class, condition.guided) - of_none)
    return Logits(of_class, ops.scatter_update(of_class, condition.guided[:, None], guided))
