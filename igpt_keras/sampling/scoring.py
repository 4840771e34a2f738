"""How probable a model finds images."""

import numpy as np
import tensorflow as tf

from igpt_keras.errors import InputError
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.network.losses import token_nll
from igpt_keras.sampling.settings import (
    check_can_sample,
    check_model_images,
    is_integer,
)
from igpt_keras.tokenizers.base import tokenizer_of


def score(
    model: GenerativeModel,
    images: np.ndarray,
    *,
    per_pixel: bool = False,
    batch_size: int = 32,
) -> np.ndarray:
    """The log-likelihood of images in the palette's colors, in nats.

    Args:
        model: an autoregressive `ImageGPT`, or a classifier with its token logits. A BERT model
            gives a distribution of some pixels given the others, and none of a whole image.
        images: uint8 [B, R, R, 3] (or 1 channel, gray), R = `image_size`.
        per_pixel: whether to give the log-probability of every pixel given those before it.
        batch_size: images in one pass.

    Returns: float32 [B], or per pixel [B, R, R].

    Raises:
        InputError: an argument that cannot be used.
    """
    check_can_sample(model)
    images = check_model_images(model, images)
    if not is_integer(batch_size) or batch_size < 1:
        raise InputError(f"batch_size must be an integer >= 1, got {batch_size}")
    tokens = tokenizer_of(model).tokenize(images)
    log_probabilities = np.concatenate(
        [
            _compiled_scorer(model)(tokens[start : start + batch_size]).numpy()
            for start in range(0, len(tokens), batch_size)
        ]
    )
    return log_probabilities.reshape(images.shape[:3]) if per_pixel else log_probabilities.sum(1)


def log_probabilities_of(model: GenerativeModel, tokens):
    """The log-probability of each token given those before it. Traces into a TensorFlow graph.

    Args:
        model: as for `score`.
        tokens: int32 [B, n].

    Returns: float32 [B, n], nats.
    """
    return -token_nll(tokens, model.token_head(model.backbone({"tokens": tokens})))


def _compiled_scorer(model):
    """`log_probabilities_of` as a graph kept with the model."""
    if not hasattr(model, "_scorer"):
        model._scorer = tf.function(
            lambda tokens: log_probabilities_of(model, tokens),
            input_signature=[tf.TensorSpec([None, model.config.sequence_length], tf.int32)],
            autograph=False,
        )
    return model._scorer
