"""Drawing tokens by the Gumbel-max trick: the argmax of the logits plus Gumbel noise.

The noise depends only on the seed of a sequence and on the position. The drawn token therefore
does not depend on the rest of the batch, nor on how the logits were computed, and another model
with similar logits often draws the same token from the same noise.

Shapes: B sequences, R positions in a row of the token grid, V tokens in the vocabulary.
"""

# Keras declares that its functions may return None.
# pyright: reportOptionalOperand=false

from keras import ops

from igpt_keras.sampling.backends import backend
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

    Any call gives the same noise for the same seed, row and row length. The bits that it is made of
    are the same on every backend.

    Args:
        seeds: Those of the sequences, as `backend.as_seeds` makes them: int64 [B] on TensorFlow.
        first_row: int32 scalar, the first of the rows.
        num_rows: The number of rows, an integer or int32 scalar.
        row_length: R.
        vocabulary_size: V.

    Returns:
        float32 [num_rows · R, B, V].
    """
    bits = backend.random_bits(seeds, first_row, num_rows, row_length, vocabulary_size)
    bits = ops.transpose(bits, (0, 2, 1, 3))
    bits = ops.reshape(bits, (num_rows * row_length, -1, vocabulary_size))
    # Uniform in (0, 1), and finest near 0, where the largest noise comes from.
    uniform = ops.minimum((ops.cast(bits, "float32") + 0.5) * 2.0**-32, 1 - 2.0**-24)
    return -ops.log(-ops.log1p(-uniform))


def sample_token(logits: Tensor, noise: Tensor, sampler: Sampler) -> Tensor:
    """Draws one token from each row of logits.

    Args:
        logits: float32 [B, V].
        noise: float32 [B, V], standard Gumbel.
        sampler: Its fields are numbers, or tensors [B].

    Returns:
        int32 [B].
    """
    is_greedy = ops.reshape(ops.convert_to_tensor(sampler.is_greedy), (-1, 1))
    perturbed = sampler.filter_logits(logits) + noise
    return backend.argmax(ops.where(is_greedy, logits, perturbed))


def log_prob_and_entropy(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Returns log-probabilities of tokens [...] and entropies [...] of logits [..., V], nats."""
    log_probs = ops.log_softmax(logits)
    token_log_probs = backend.pick(log_probs, tokens)
    return token_log_probs, -ops.sum(ops.exp(log_probs) * log_probs, axis=-1)
