"""Completing with a BERT model: the most confident tokens first, in a number of steps.

A BERT model predicts each masked token given the tokens that are not masked, but has no joint
distribution of the masked ones. So this samples from an approximation: the tokens filled in one
step are drawn independently of each other, and the conditional distributions need not belong to
any joint distribution. The schedule is that of MaskGIT (Chang et al., 2022,
https://arxiv.org/abs/2202.04200), the method that of mask-predict (Ghazvininejad et al., 2019,
https://arxiv.org/abs/1904.09324); a filled token is not masked again.

The confidence at a position is the probability of its most probable token, not that of the token
drawn there: the latter would prefer probable tokens, and change their frequencies.

Shapes: B sequences, n positions, V tokens in the vocabulary.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from igpt_keras.network.protocols import TokenModel
from igpt_keras.sampling.backends import backend
from igpt_keras.sampling.graphs import kept_by_model
from igpt_keras.sampling.gumbel import gumbel_noise, log_prob_and_entropy, sample_token
from igpt_keras.sampling.samplers import Sampler
from igpt_keras.tensors import Tensor

DEFAULT_NUM_STEPS = 16


class MaskedState(NamedTuple):
    """Sequences between two steps. Values at known positions are 0."""

    tokens: Tensor  # int32 [B, n]
    masked: Tensor  # bool [B, n], where no token has been filled in yet
    log_probs: Tensor  # float32 [B, n], nats, of the step that filled the token
    entropies: Tensor  # float32 [B, n], nats, of the step that filled the token


def mask_predict(
    model: TokenModel,
    tokens: np.ndarray,
    known: np.ndarray,
    seeds: Tensor,
    sampler: Sampler,
    num_steps: int,
) -> tuple[MaskedState, int]:
    """Fills the unknown positions in at most `num_steps` steps.

    A step draws at all masked positions, each with the noise of the sequence's seed and its
    position, and keeps the tokens at the most confident ones.

    Args:
        model: A BERT model with a token head.
        tokens: int32 [B, n]; the values at unknown positions have no effect.
        known: bool [B, n].
        seeds: Those of the sequences, from `backend.as_seeds`.
        sampler: Its fields are numbers.
        num_steps: At least 1. A sequence with fewer unknown positions takes one step for each.

    Returns:
        The filled sequences, and the number of steps taken.
    """
    noise = gumbel_noise(seeds, 0, *model.config.token_grid, model.config.vocabulary_size)
    zeros = np.zeros(known.shape, np.float32)
    state = MaskedState(tokens, ~known, zeros, zeros)
    fields = sampler.arrays(len(tokens))
    compiled_step = _compiled_step(model, type(sampler))
    schedule = mask_schedule((~known).sum(axis=1), num_steps)
    for num_masked in schedule:
        state = compiled_step(state, num_masked, noise, fields)
    return state, len(schedule)


def mask_schedule(num_unknown: np.ndarray, num_steps: int) -> np.ndarray:
    """Returns how many positions stay masked after each step: MaskGIT's cosine schedule.

    The first steps, of which the model knows least, fill the fewest; each fills at least one.

    Args:
        num_unknown: int [B], positions to fill.
        num_steps: T.

    Returns:
        int32 [T', B] with T' ≤ T. The last row is all 0; there is no row if nothing is unknown.
    """
    num_masked, schedule = np.asarray(num_unknown), []
    for step in range(1, num_steps + 1):
        if not num_masked.any():
            break
        # cos(π / 2) is not quite 0 in floating point.
        share = math.cos(math.pi / 2 * step / num_steps) if step < num_steps else 0
        planned = np.floor(num_unknown * share)
        num_masked = np.maximum(np.minimum(num_masked - 1, planned), 0).astype(np.int32)
        schedule.append(num_masked)
    return np.array(schedule, np.int32).reshape(-1, len(num_masked))


def mask_predict_step(
    model: TokenModel, state: MaskedState, num_masked: Tensor, noise: Tensor, sampler: Sampler
) -> MaskedState:
    """One step of `mask_predict`.

    Args:
        model: A BERT model with a token head.
        state: The state before the step.
        num_masked: int32 [B], how many positions stay masked after it.
        noise: float32 [n, B, V].
        sampler: Its fields are tensors [B].
    """
    length, vocabulary_size = model.config.sequence_length, model.config.vocabulary_size
    logits = model.token_head(model.backbone({"tokens": state.tokens, "masked": state.masked}))

    def flat(x):
        return ops.reshape(x, (-1, vocabulary_size))

    sampler = sampler.map(lambda field: ops.repeat(field, length))
    drawn = sample_token(flat(logits), flat(ops.transpose(noise, (1, 0, 2))), sampler)
    drawn = ops.reshape(drawn, (-1, length))
    drawn_from = ops.softmax(sampler.filter_logits(flat(logits)))
    confidence = ops.reshape(ops.max(drawn_from, axis=-1), (-1, length))
    confidence = ops.where(state.masked, confidence, -1.0)
    # The first of equally confident positions comes first.
    by_confidence: Any = ops.top_k(confidence, length)
    rank = ops.argsort(by_confidence[1], axis=-1)
    num_filled = ops.sum(ops.cast(state.masked, "int32"), axis=-1) - num_masked
    filled = state.masked & (rank < num_filled[:, None])
    log_probs, entropies = log_prob_and_entropy(logits, drawn)
    return MaskedState(
        ops.where(filled, drawn, state.tokens),
        state.masked & ~filled,
        ops.where(filled, log_probs, state.log_probs),
        ops.where(filled, entropies, state.entropies),
    )


@kept_by_model
def _compiled_step(model: TokenModel, sampler_type: type[Sampler]):
    """`mask_predict_step`, compiled; its last argument holds the sampler's fields by name."""
    length, vocabulary_size = model.config.sequence_length, model.config.vocabulary_size

    def step(state, num_masked, noise, fields):
        return mask_predict_step(model, state, num_masked, noise, sampler_type(**fields))

    def spec(dtype, *shape):
        return backend.TensorSpec(shape, dtype)

    tokens, masked, measures = (spec(dtype, None, length) for dtype in ("int32", "bool", "float32"))
    signature = [
        MaskedState(tokens, masked, measures, measures),
        spec("int32", None),
        spec("float32", length, None, vocabulary_size),
        {field.name: spec(field.dtype, None) for field in sampler_type.parameters()},
    ]
    return backend.compile_function(step, signature, lambda: model.weights)
