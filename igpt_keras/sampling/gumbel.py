"""Drawing tokens by the Gumbel-max trick: the argmax of the logits plus Gumbel noise.

The noise depends only on the seed of a sequence and on the position. The drawn token therefore
does not depend on the rest of the batch, nor on how the logits were computed, and another model
with similar logits often draws the same token from the same noise.

Shapes: B sequences, R positions in a row of the token grid, V tokens in the vocabulary.
"""

import tensorflow as tf

from igpt_keras.sampling.samplers import Sampler
from igpt_keras.tensors import Tensor


def gumbel_noise(
    seeds: Tensor,
    first_row: Tensor,
    num_rows: int | Tensor,
    row_length: int,
    vocabulary_size: int,
) -> Tensor:
    """Returns standard Gumbel noise for some rows of the token grid.

    Any call gives the same noise for the same seed, row and row length.

    Args:
        seeds: int64 [B].
        first_row: int32 scalar, the first of the rows.
        num_rows: The number of rows, an integer or int32 scalar.
        row_length: R.
        vocabulary_size: V.

    Returns:
        float32 [num_rows · R, B, V].
    """
    rows = tf.cast(first_row + tf.range(num_rows), tf.int64)
    pairs = tf.stack([tf.tile(seeds, [num_rows]), tf.repeat(rows, tf.size(seeds))], axis=1)

    def bits_of_row(pair):
        shape = [row_length, vocabulary_size]
        return tf.random.stateless_uniform(
            shape,
            pair,
            minval=None,  # pyright: ignore[reportArgumentType]
            maxval=None,
            dtype=tf.uint32,
            alg="philox",
        )

    spec = tf.TensorSpec([row_length, vocabulary_size], tf.uint32)
    bits = tf.map_fn(bits_of_row, pairs, fn_output_signature=spec)
    bits = tf.reshape(bits, [num_rows, -1, row_length, vocabulary_size])
    bits = tf.transpose(bits, [0, 2, 1, 3])
    bits = tf.reshape(bits, [num_rows * row_length, -1, vocabulary_size])
    # Uniform in (0, 1), and finest near 0, where the largest noise comes from.
    uniform = tf.minimum((tf.cast(bits, tf.float32) + 0.5) * 2.0**-32, 1 - 2.0**-24)
    return -tf.math.log(-tf.math.log1p(-uniform))


def sample_token(logits: Tensor, noise: Tensor, sampler: Sampler) -> Tensor:
    """Draws one token from each row of logits.

    Args:
        logits: float32 [B, V].
        noise: float32 [B, V], standard Gumbel.
        sampler: Its fields are numbers, or tensors [B].

    Returns:
        int32 [B].
    """
    is_greedy = tf.reshape(tf.convert_to_tensor(sampler.is_greedy), [-1, 1])
    perturbed = sampler.filter_logits(logits) + noise
    return tf.argmax(tf.where(is_greedy, logits, perturbed), axis=-1, output_type=tf.int32)


def log_prob_and_entropy(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Returns log-probabilities of tokens [...] and entropies [...] of logits [..., V], nats."""
    log_probs = tf.nn.log_softmax(logits)
    token_log_probs = tf.gather(log_probs, tokens, batch_dims=tokens.shape.rank)
    return token_log_probs, -tf.reduce_sum(tf.exp(log_probs) * log_probs, axis=-1)
