"""Generative losses in nats per token, float32. Shapes: B images, n positions, V tokens."""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalOperand=false

from keras import ops

from igpt_keras.tensors import Tensor


def token_nll(tokens: Tensor, logits: Tensor) -> Tensor:
    """Returns the negative log-likelihood of each token.

    Args:
        tokens: int32 [B, n].
        logits: [B, n, V].

    Returns:
        float32 [B, n].
    """
    log_probs = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    picked = ops.take_along_axis(log_probs, ops.cast(tokens, "int32")[..., None], axis=-1)
    return -picked[..., 0]


def autoregressive_nll(tokens: Tensor, logits: Tensor) -> Tensor:
    """Returns L_AR (paper, section 2.1), the mean over the positions: float32 [B]."""
    return ops.mean(token_nll(tokens, logits), axis=1)


def masked_nll(tokens: Tensor, logits: Tensor, masked: Tensor) -> Tensor:
    """Returns L_BERT (paper, section 2.1), the mean over the masked positions.

    The paper writes a sum over M; the mean is that of the published code.

    Args:
        tokens: int32 [B, n].
        logits: [B, n, V].
        masked: bool [B, n], true at the positions of the mask M.

    Returns:
        float32 [B]; 0 for an image without a masked position.
    """
    weights = ops.cast(masked, "float32")
    total = ops.sum(token_nll(tokens, logits) * weights, axis=1)
    return total / ops.maximum(ops.sum(weights, axis=1), 1.0)


def shares_of_mean(values: Tensor) -> Tensor:
    """Returns what each of B values adds to their mean: [B] to [B], a B-th of each.

    B = 0, the share that a replica may have of a batch, gives no values, whose sum is 0.
    """
    return values / ops.cast(ops.maximum(ops.shape(values)[0], 1), values.dtype)
