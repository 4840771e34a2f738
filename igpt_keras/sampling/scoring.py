"""Log-likelihoods of images under an autoregressive model."""

from collections.abc import Sequence

import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.network.losses import token_nll
from igpt_keras.network.protocols import TokenModel
from igpt_keras.sampling.backends import backend
from igpt_keras.sampling.checks import check_autoregressive, check_model_images
from igpt_keras.sampling.conditioning import image_labels
from igpt_keras.sampling.graphs import kept_by_model
from igpt_keras.sampling.requests import check_positive
from igpt_keras.tensors import Tensor
from igpt_keras.tokenizers.base import tokenizer_of


def score(
    model: TokenModel,
    images: np.ndarray,
    labels: int | Sequence[int] | np.ndarray | None = None,
    *,
    per_pixel: bool = False,
    batch_size: int = 32,
) -> np.ndarray:
    """Returns the log-likelihood of images, reduced to the model's tokens, in nats.

    Args:
        model: An autoregressive `ImageGPT`, or a classifier with a token head. A BERT model has
            no likelihood of an image.
        images: uint8 [B, R, R, 3] (or 1 channel, gray), R the model's image size.
        labels: The class of all images or of each, for log p(x | class); None for log p(x). Only
            for a model with `num_classes`.
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
    tokens = _tokens(model, images, batch_size)
    if labels is not None:
        labels = image_labels(model, labels, len(tokens))
    log_probs = score_tokens(model, tokens, labels, batch_size)
    return log_probs.reshape(-1, *model.config.token_grid) if per_pixel else log_probs.sum(axis=1)


def class_log_likelihood(
    model: TokenModel, images: np.ndarray, *, batch_size: int = 32
) -> np.ndarray:
    """Returns the log-likelihood of images given each class, log p(x | class), in nats.

    The class of the largest one is the answer of a generative classifier whose classes are
    equally frequent; add the logarithms of their frequencies where they are not. This takes a
    pass for each class.

    Args:
        model: A model with `num_classes`, K.
        images: As for `score`.
        batch_size: The number of images per pass.

    Returns:
        float32 [B, K].

    Raises:
        InputError: An argument cannot be used.

    Example:
        ```python
        accuracy = (model.class_log_likelihood(images).argmax(axis=1) == labels).mean()
        ```
    """
    tokens = _tokens(model, images, batch_size)
    count = model.config.num_classes
    if count is None:
        raise InputError("class_log_likelihood needs a model that was made with num_classes")
    of_classes = [
        score_tokens(model, tokens, image_labels(model, label, len(tokens)), batch_size)
        for label in range(count)
    ]
    return np.stack([log_probs.sum(axis=1) for log_probs in of_classes], axis=1)


def token_log_probs(model: TokenModel, tokens: Tensor, labels: Tensor | None = None) -> Tensor:
    """Returns the log-probability of each token given those before it. Traces into a graph.

    Args:
        model: As for `score`.
        tokens: int32 [B, n].
        labels: int32 [B], the classes of the images, -1 for none; None if none has one.

    Returns:
        float32 [B, n], nats.
    """
    inputs = {"tokens": tokens} if labels is None else {"tokens": tokens, "labels": labels}
    return -token_nll(tokens, model.token_head(model.backbone(inputs)))


def _tokens(model, images, batch_size) -> np.ndarray:
    """Returns the tokens of images, after the checks of both functions."""
    check_autoregressive(model)
    tokenizer = tokenizer_of(model)
    images = check_model_images(model, images)
    check_positive("batch_size", batch_size)
    return tokenizer.tokenize(images)


def score_tokens(
    model: TokenModel, tokens: np.ndarray, labels: np.ndarray | None, batch_size: int
) -> np.ndarray:
    """Returns `token_log_probs` as an array, batch by batch.

    Args:
        model: As for `score`.
        tokens: int32 [B, n], B at least 1.
        labels: int32 [B], as for `token_log_probs`.
        batch_size: As for `score`.

    Returns:
        float32 [B, n], nats.
    """
    given = (tokens,) if labels is None else (tokens, labels)
    compiled = _compiled_log_probs(model, len(given))
    log_probs = [
        np.asarray(compiled(*(values[start : start + batch_size] for values in given)))
        for start in range(0, len(tokens), batch_size)
    ]
    return np.concatenate(log_probs)


@kept_by_model
def _compiled_log_probs(model: TokenModel, num_arguments: int):
    signature = [
        backend.TensorSpec([None, model.config.sequence_length], "int32"),
        backend.TensorSpec([None], "int32"),
    ]
    return backend.compile_function(
        lambda *given: token_log_probs(model, *given),
        signature[:num_arguments],
        lambda: model.weights,
    )
