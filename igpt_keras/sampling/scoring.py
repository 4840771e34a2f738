"""Log-likelihoods of images under an autoregressive model."""

import numpy as np
import tensorflow as tf

from igpt_keras.network.losses import token_nll
from igpt_keras.network.protocols import TokenModel
from igpt_keras.sampling.checks import check_autoregressive, check_model_images
from igpt_keras.sampling.graphs import kept_by_model
from igpt_keras.sampling.requests import check_positive
from igpt_keras.tensors import Tensor
from igpt_keras.tokenizers.base import tokenizer_of


def score(
    model: TokenModel, images: np.ndarray, *, per_pixel: bool = False, batch_size: int = 32
) -> np.ndarray:
    """Returns the log-likelihood of images, reduced to the model's tokens, in nats.

    Args:
        model: An autoregressive `ImageGPT`, or a classifier with a token head. A BERT model has
            no likelihood of an image.
        images: uint8 [B, R, R, 3] (or 1 channel, gray), R the model's image size.
        per_pixel: Whether to return the log-probability of each token (each pixel, with a color
            palette) given those before it.
        batch_size: The number of images per pass.

    Returns:
        float32 [B], or with `per_pixel` float32 [B, rows, columns] of the token grid.

    Raises:
        InputError: An argument cannot be used.

    Example:
        ```python
        bits_per_pixel = -model.score(images) / np.log(2) / images[0, :, :, 0].size
        ```
    """
    check_autoregressive(model)
    tokenizer = tokenizer_of(model)
    images = check_model_images(model, images)
    check_positive("batch_size", batch_size)
    tokens = tokenizer.tokenize(images)
    compiled = _compiled_log_probs(model)
    batches = np.split(tokens, range(batch_size, len(tokens), batch_size))
    log_probs = np.concatenate([compiled(batch).numpy() for batch in batches])
    return log_probs.reshape(-1, *model.config.token_grid) if per_pixel else log_probs.sum(axis=1)


def token_log_probs(model: TokenModel, tokens: Tensor) -> Tensor:
    """Returns the log-probability of each token given those before it. Traces into a graph.

    Args:
        model: As for `score`.
        tokens: int32 [B, n].

    Returns:
        float32 [B, n], nats.
    """
    return -token_nll(tokens, model.token_head(model.backbone({"tokens": tokens})))


@kept_by_model
def _compiled_log_probs(model: TokenModel):
    return tf.function(
        lambda tokens: token_log_probs(model, tokens),
        input_signature=[tf.TensorSpec([None, model.config.sequence_length], tf.int32)],
        autograph=False,
    )
