"""Generative losses in nats per pixel, float32, one value per image."""

from keras import ops


def token_nll(tokens, logits):
    """Negative log-likelihood of each token. int32 [B, n], [B, n, V] to float32 [B, n]."""
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    picked = ops.take_along_axis(log_probabilities, ops.cast(tokens, "int32")[..., None], axis=-1)
    return -picked[..., 0]


def autoregressive_nll(tokens, logits):
    """L_AR (paper, section 2.2): the mean over the positions. Float32 [B]."""
    return ops.mean(token_nll(tokens, logits), axis=1)


def masked_nll(tokens, logits, masked):
    """L_BERT: the mean over the masked positions (published code). Float32 [B].

    Args:
        tokens: int32 [B, n].
        logits: [B, n, V].
        masked: bool [B, n], true at the positions of the mask M. An image with no
            masked position has loss 0.
    """
    weights = ops.cast(masked, "float32")
    total = ops.sum(token_nll(tokens, logits) * weights, axis=1)
    return total / ops.maximum(ops.sum(weights, axis=1), 1.0)


def mean_over_images(values):
    """The mean of [B]; 0 for B = 0, which a replica's share of a small batch may be."""
    return ops.sum(values) / ops.cast(ops.maximum(ops.shape(values)[0], 1), values.dtype)
