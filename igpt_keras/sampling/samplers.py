"""Drawing tokens: the largest of logits plus Gumbel noise (Gumbel-max).

The noise depends on a sequence's seed and on the position only. So the drawn token does not
depend on the rest of the batch, nor on how the logits were computed, and whoever draws with
another model's logits and the same noise will often draw the same token.

Shapes: B sequences, R positions a row of the image, V colors.
"""

import numpy as np
import tensorflow as tf


def gumbel_noise(seeds, first_row, num_rows: int, row_length: int, vocabulary_size: int):
    """Standard Gumbel noise of some rows of images, the same however it is asked for.

    Args:
        seeds: int64 [B].
        first_row: int32 scalar.
        num_rows: how many rows, beginning with `first_row`.
        row_length: R.
        vocabulary_size: V.

    Returns: float32 [num_rows · R, B, V].
    """
    rows = tf.cast(first_row + tf.range(num_rows), tf.int64)
    pairs = tf.stack([tf.tile(seeds, [num_rows]), tf.repeat(rows, tf.size(seeds))], axis=1)

    def bits_of_row(pair):
        shape = [row_length, vocabulary_size]
        return tf.random.stateless_uniform(
            shape, pair, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
        )

    spec = tf.TensorSpec([row_length, vocabulary_size], tf.uint32)
    bits = tf.map_fn(bits_of_row, pairs, fn_output_signature=spec)
    bits = tf.reshape(bits, [num_rows, -1, row_length, vocabulary_size])
    bits = tf.transpose(bits, [0, 2, 1, 3])
    bits = tf.reshape(bits, [num_rows * row_length, -1, vocabulary_size])
    # Uniform in (0, 1), and finest near 0, where the largest noise comes from.
    uniform = tf.minimum((tf.cast(bits, tf.float32) + 0.5) * 2.0**-32, 1 - 2.0**-24)
    return -tf.math.log(-tf.math.log1p(-uniform))


def draw(logits, noise, temperature, top_k, top_p):
    """One token of each row: temperature, then top-k, then top-p, then the draw.

    Args:
        logits: float32 [B, V].
        noise: float32 [B, V], standard Gumbel.
        temperature, top_k, top_p: [B], as in `restrict`.

    Returns: int32 [B].
    """
    greedy = (temperature == 0)[:, None]
    restricted = restrict(logits, temperature, top_k, top_p)
    return tf.argmax(tf.where(greedy, logits, restricted + noise), axis=-1, output_type=tf.int32)


def restrict(logits, temperature, top_k, top_p):
    """The logits of what is drawn from.

    Args:
        logits: float32 [B, V].
        temperature: float32 [B], divides the logits; where it is 0 nothing is divided.
        top_k: int32 [B]; those below the k-th largest go; 0 for all.
        top_p: float32 [B]; of the rest, those go before which the larger ones have a probability
            of `top_p` together. What is equal to one that stays, stays.

    Returns: float32 [B, V], -inf for what goes.
    """
    logits = logits / tf.where(temperature == 0, 1.0, temperature)[:, None]
    return tf.cond(
        tf.reduce_any((top_k > 0) | (top_p < 1)),
        lambda: _cut(logits, top_k, top_p),
        lambda: logits,
    )


def _cut(logits, top_k, top_p):
    vocabulary_size = logits.shape[-1]
    descending = tf.sort(logits, axis=-1, direction="DESCENDING")
    last_of_k = tf.where(top_k == 0, vocabulary_size, tf.minimum(top_k, vocabulary_size)) - 1
    least = tf.gather(descending, last_of_k, batch_dims=1)[:, None]
    probabilities = tf.nn.softmax(tf.where(descending >= least, descending, -np.inf))
    mass_before = tf.cumsum(probabilities, axis=-1, exclusive=True)
    in_mass = (mass_before < top_p[:, None]) | (top_p == 1)[:, None]
    in_mass &= descending >= least
    last_of_mass = tf.reduce_sum(tf.cast(in_mass, tf.int32), axis=-1) - 1
    least = tf.gather(descending, last_of_mass, batch_dims=1)[:, None]
    return tf.where(logits >= least, logits, -np.inf)


def measure(logits, tokens):
    """Log-probabilities of tokens [...] and entropies [...], in nats, of logits [..., V]."""
    log_probabilities = tf.nn.log_softmax(logits)
    of_tokens = tf.gather(log_probabilities, tokens, batch_dims=tokens.shape.rank)
    entropies = -tf.reduce_sum(tf.exp(log_probabilities) * log_probabilities, axis=-1)
    return of_tokens, entropies
