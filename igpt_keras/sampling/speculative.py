"""Speculative decoding: several pixels a pass of the model, and exactly those of plain decoding.

A token is the argmax of the model's logits plus noise that depends on seed and position only. So
whether a guess is right can be told without chance: it must be the very token that the model
draws there with that noise. A pass takes the last final token and guesses for the positions after
it, and draws at all of them. Up to and including the first guess that was wrong, what is drawn is
what plain decoding would draw, as all that came before it is right.

What the model drew after a wrong guess it drew from a context that is mostly right, and is the
guess of the next pass, for free (Wiggers and Hoogeboom, "Predictive sampling with forecasting
autoregressive models", 2020). The draft guesses what no pass has come to yet.

Shapes: B sequences that go at the pace of the slowest, n positions, W positions a pass, V colors.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from igpt_keras.sampling.decoder import decode_step, grow
from igpt_keras.sampling.drafts import Draft
from igpt_keras.sampling.samplers import draw, gumbel_noise, measure

# How often the draft goes over what it guesses, each time given what it guessed before. To guess
# one position after the other takes as many times as positions, for hardly better guesses.
SWEEPS = 2


class Guesses(NamedTuple):
    """What a decoder keeps with a draft, beside its tokens, which hold the guesses."""

    stop: tf.Tensor  # int32 scalar, the first position without a guess
    passes: tf.Tensor  # int32 scalar, passes of the model so far
    kept: Any  # by the draft


def begin_guesses(draft: Draft, tokens, prefix, num_completions: int) -> Guesses:
    """No guess yet, after tokens int32 [B, n] of which the first `prefix` are known."""
    prefix = tf.convert_to_tensor(prefix, tf.int32)
    return Guesses(prefix, tf.zeros_like(prefix), draft.begin(tokens, prefix, num_completions))


def speculate_rows(model, draft: Draft, state, known, settings, num_rows: int):
    """As `decode_rows`: goes on to the end of a row of the image or a little further.

    Args:
        model, state, known, settings, num_rows: as for `decode_rows`, the state with `guesses`.
        draft: that of the state's guesses.
    """
    config = model.config
    size, length = config.image_size, config.sequence_length
    window = min(draft.window, length)
    first_row = state.position // size
    stop = tf.minimum((first_row + num_rows) * size, length)
    # Windows reach beyond the last row.
    num_rows += -(-window // size)
    noise = gumbel_noise(settings.seeds, first_row, num_rows, size, config.vocabulary_size)
    caches = state.caches
    if caches[0][0].shape[1] != length:
        caches = grow(caches, tf.minimum((first_row + num_rows) * size, length))

    def draw_at(positions, tokens, logits):
        """Tokens int32 [k, B] at positions [k]: the known ones of `tokens` [k, B], else drawn."""
        of_positions = tf.gather(noise, tf.maximum(positions - first_row * size, 0))
        count = tf.size(positions)
        drawn = draw(
            *(tf.reshape(x, [-1, config.vocabulary_size]) for x in (logits, of_positions)),
            *(tf.tile(setting, [count]) for setting in settings[1:]),
        )
        return tf.where(tf.gather(known, positions), tokens, tf.reshape(drawn, [count, -1]))

    def guess(tokens, guesses, start):
        """The tokens with guesses up to the window's last position, and what the draft keeps."""
        positions = start + tf.range(window - 1)
        is_new = (positions >= guesses.stop)[:, None]
        last = tokens[tf.maximum(guesses.stop - 1, 0)]
        here = tf.where(is_new & ~tf.gather(known, positions), last, tf.gather(tokens, positions))
        kept = guesses.kept
        for _ in range(SWEEPS):
            tokens = tf.tensor_scatter_nd_update(tokens, positions[:, None], here)
            logits, kept = draft.logits(kept, tokens, start, window - 1)
            here = tf.where(is_new, draw_at(positions, here, logits), here)
        return tf.tensor_scatter_nd_update(tokens, positions[:, None], here), kept

    def step(state):
        # The last windows reach back over what is final rather than beyond the image.
        start = tf.minimum(state.position, length - window)
        positions = start + tf.range(window)
        tokens, kept = guess(state.tokens, state.guesses, start)
        previous = tf.gather(tokens, tf.maximum(positions - 1, 0))
        logits, caches = decode_step(model, tf.transpose(previous), start, state.caches)
        logits = tf.transpose(logits, [1, 0, 2])
        guessed = tf.gather(tokens, positions)
        is_new = (positions >= state.position)[:, None]
        drawn = tf.where(is_new, draw_at(positions, guessed, logits), guessed)
        right = tf.cast(tf.reduce_all(drawn == guessed, axis=1), tf.int32)
        accepted = tf.minimum(tf.reduce_sum(tf.math.cumprod(right)) + 1, window)

        def written(values, new):
            new = tf.where(is_new, new, tf.gather(values, positions))
            return tf.tensor_scatter_nd_update(values, positions[:, None], new)

        log_probabilities, entropies = measure(logits, drawn)
        return (
            state._replace(
                position=start + accepted,
                tokens=tf.tensor_scatter_nd_update(tokens, positions[:, None], drawn),
                log_probabilities=written(state.log_probabilities, log_probabilities),
                entropies=written(state.entropies, entropies),
                caches=caches,
                guesses=Guesses(start + window, state.guesses.passes + 1, kept),
            ),
        )

    (state,) = tf.while_loop(
        lambda state: state.position < stop,
        step,
        (state._replace(caches=caches),),
        parallel_iterations=1,
    )
    return state
