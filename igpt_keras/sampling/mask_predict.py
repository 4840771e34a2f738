"""Completing with BERT models: several rounds, the most confident positions first.

A BERT model gives every masked pixel's distribution given the pixels that are not masked, but no
distribution of them all together. So this is sampling from an approximation: pixels that are
filled in one round are drawn independently of each other, and the conditional distributions need
not belong to any one joint distribution. The rounds are those of MaskGIT (Chang et al., 2022) and
of mask-predict (Ghazvininejad et al., 2019); what was filled is not masked again.

A position is as confident as its most probable color, whatever was drawn there: to go by the
drawn color's probability would prefer the probable colors, and so change their frequencies.

Shapes: B sequences, n positions, R = √n, V colors.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from igpt_keras.sampling.samplers import draw, gumbel_noise, measure, restrict

DEFAULT_ROUNDS = 16


class Filling(NamedTuple):
    """Sequences between two rounds."""

    tokens: tf.Tensor  # int32 [B, n]
    masked: tf.Tensor  # bool [B, n], true where it is not filled yet
    log_probabilities: tf.Tensor  # float32 [B, n], nats, each in its round; 0 where known
    entropies: tf.Tensor  # float32 [B, n], nats, each in its round; 0 where known


def fill(model, tokens, known, settings, rounds: int) -> tuple[Filling, int]:
    """Fills the unknown positions in at most `rounds` rounds.

    A round draws at all masked positions, each with the noise of the sequence's seed and its
    position, and keeps the most confident.

    Args:
        model: a `GenerativeModel` with objective "bert" and token logits.
        tokens: int32 [B, n]; values at unknown positions do not matter.
        known: bool [B, n].
        settings: `Settings` of B sequences.
        rounds: at least 1; a sequence with fewer unknown positions takes one a round.

    Returns: the filled sequences, and how many rounds it took.
    """
    config = model.config
    size = config.image_size
    noise = gumbel_noise(settings.seeds, 0, size, size, config.vocabulary_size)
    zeros = tf.zeros(known.shape, tf.float32)
    state = Filling(tf.constant(tokens), tf.constant(~known), zeros, zeros)
    schedule = masked_after_rounds((~known).sum(axis=1), rounds)
    for left in schedule:
        state = _compiled_round(model)(state, tf.constant(left), noise, settings)
    return state, len(schedule)


def masked_after_rounds(unknown: np.ndarray, rounds: int) -> np.ndarray:
    """How many positions stay masked after each round: MaskGIT's cosine, one fewer at least.

    Few are filled in the first rounds, of which the model knows least.

    Args:
        unknown: int [B], positions to fill.
        rounds: T.

    Returns: int32 [T', B] with T' ≤ T, the last row all 0; no row where nothing is unknown.
    """
    left, schedule = np.asarray(unknown), []
    for done in range(1, rounds + 1):
        if not left.any():
            break
        # cos(π / 2) is not quite 0 in floating point.
        share = math.cos(math.pi / 2 * done / rounds) if done < rounds else 0
        left = np.maximum(np.minimum(left - 1, np.floor(unknown * share)), 0).astype(np.int32)
        schedule.append(left)
    return np.array(schedule, np.int32).reshape(-1, len(left))


def fill_round(model, state: Filling, left, noise, settings) -> Filling:
    """One round of `fill`, after which `left` positions of each sequence, int32 [B], are masked.

    Args:
        noise: float32 [n, B, V].
    """
    length, vocabulary_size = model.config.sequence_length, model.config.vocabulary_size
    logits = model.token_head(model.backbone({"tokens": state.tokens, "masked": state.masked}))

    def flat(x):
        return tf.reshape(x, [-1, vocabulary_size])

    each = [tf.repeat(setting, length) for setting in settings[1:]]
    drawn = draw(flat(logits), flat(tf.transpose(noise, [1, 0, 2])), *each)
    drawn = tf.reshape(drawn, tf.shape(state.tokens))
    drawn_from = tf.nn.softmax(restrict(flat(logits), *each))
    confidence = tf.reshape(tf.reduce_max(drawn_from, axis=-1), tf.shape(state.tokens))
    confidence = tf.where(state.masked, confidence, -1.0)
    by_confidence = tf.argsort(confidence, axis=-1, direction="DESCENDING", stable=True)
    rank = tf.argsort(by_confidence, axis=-1, stable=True)
    masked = tf.reduce_sum(tf.cast(state.masked, tf.int32), axis=-1)
    filled = state.masked & (rank < (masked - left)[:, None])
    log_probabilities, entropies = measure(logits, drawn)
    return Filling(
        tf.where(filled, drawn, state.tokens),
        state.masked & ~filled,
        tf.where(filled, log_probabilities, state.log_probabilities),
        tf.where(filled, entropies, state.entropies),
    )


def _compiled_round(model):
    """`fill_round` of `model` as a graph, kept with the model."""
    if not hasattr(model, "_round"):
        model._round = tf.function(
            lambda *arguments: fill_round(model, *arguments),
            reduce_retracing=True,
            autograph=False,
        )
    return model._round
