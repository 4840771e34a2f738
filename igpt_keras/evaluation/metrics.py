"""Losses and accuracies of a model on tokens that it was not trained on."""

import dataclasses
import math
from typing import Any

import numpy as np

from igpt_keras import paper
from igpt_keras.errors import InputError
from igpt_keras.evaluation.method_model import MethodModel
from igpt_keras.evaluation.predictions import Predictions
from igpt_keras.evaluation.voting import VOTES, modal_vote
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.models.masking import masked_inputs


@dataclasses.dataclass(frozen=True)
class ClassifierMetrics:
    """Metrics of a classifier on one split of a data set.

    Attributes:
        accuracy: Share of the images whose class is right; for BERT, the class that most of
            `VOTES` masks are for, with ties broken at random (paper, section 4.6).
        single_mask_accuracy: BERT's accuracy under the first of these masks; None for AR.
        classification_loss: L_CLF in nats; for BERT, the mean over the masks.
        generative_loss: L_GEN in nats per token, likewise; None without a token head.
        top_5_accuracy: As of `Predictions`; for BERT by the mean probabilities over the masks.
        predictions: The predicted classes, for BERT those of the vote.
    """

    accuracy: float
    single_mask_accuracy: float | None
    classification_loss: float
    generative_loss: float | None
    top_5_accuracy: float | None
    predictions: Predictions = dataclasses.field(repr=False, compare=False)


def classifier_metrics(
    classifier: ImageGPTClassifier,
    tokens: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int = paper.BATCH_SIZE,
    seed: int = 0,
) -> ClassifierMetrics:
    """Measures accuracy and losses of a classifier.

    Args:
        classifier: A classifier of either objective.
        tokens: int [N, n].
        labels: int [N].
        batch_size: Images in a forward pass; it changes the metrics by rounding only.
        seed: Seed of the masks and of the choice between ties (BERT).

    Raises:
        InputError: `labels` are not classes of `classifier`.
    """
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= classifier.num_classes:
        raise InputError(
            f"labels must lie in 0…{classifier.num_classes - 1} (num_classes="
            f"{classifier.num_classes}), one for each image"
        )
    outputs = _per_image(classifier, tokens, batch_size, seed)
    logits = outputs["class_logits"]
    votes = logits.argmax(axis=2)
    bert = classifier.objective == "bert"
    predictions = Predictions.of([_mean_log_probabilities(logits)], labels)
    if bert:
        elected = modal_vote(votes, classifier.num_classes, seed)
        predictions = dataclasses.replace(predictions, classes=elected)
    return ClassifierMetrics(
        accuracy=predictions.accuracy,
        single_mask_accuracy=float((votes[0] == labels).mean()) if bert else None,
        classification_loss=_cross_entropy(logits, labels),
        generative_loss=float(outputs["nll"].mean()) if "nll" in outputs else None,
        top_5_accuracy=predictions.top_5_accuracy,
        predictions=predictions,
    )


def generative_classifier_metrics(
    model: ImageGPT,
    tokens: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int = paper.BATCH_SIZE,
) -> ClassifierMetrics:
    """Measures a class-conditional model, as a classifier as well.

    The class of the largest log p(x | class) is the answer, by Bayes' rule for classes that are
    equally frequent. This takes a pass for each class.

    Args:
        model: A model with `config.num_classes`.
        tokens: int [N, n].
        labels: int [N].
        batch_size: Images in a forward pass; it changes the metrics by rounding only.

    Returns:
        The metrics; `classification_loss` is the mean of -log p(class | x), and
        `generative_loss` that of the images given their classes.

    Raises:
        InputError: The model has no classes, or `labels` are others.
    """
    count = model.config.num_classes
    if count is None:
        raise InputError("a generative classifier needs a model that was made with num_classes")
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= count:
        raise InputError(
            f"labels must lie in 0…{count - 1} (num_classes={count}), one for each image"
        )
    given = (np.full(len(tokens), label) for label in range(count))
    nll = [_per_image(model, tokens, batch_size, seed=0, labels=each)["nll"] for each in given]
    log_likelihood = -np.stack(nll, axis=2) * model.config.sequence_length
    predictions = Predictions.of(list(log_likelihood), labels)
    of_class = np.take_along_axis(log_likelihood[0], labels[:, None].astype(np.int64), axis=1)
    return ClassifierMetrics(
        accuracy=predictions.accuracy,
        single_mask_accuracy=None,
        classification_loss=_cross_entropy(log_likelihood, labels),
        generative_loss=-float(of_class.mean()) / model.config.sequence_length,
        top_5_accuracy=predictions.top_5_accuracy,
        predictions=predictions,
    )


def generative_loss(
    model: GenerativeModel,
    tokens: np.ndarray,
    *,
    batch_size: int = paper.BATCH_SIZE,
    seed: int = 0,
) -> float:
    """Returns L_GEN in nats per token; for BERT, the mean over `VOTES` masks.

    Args:
        model: A model of either objective.
        tokens: int [N, n].
        batch_size: Images in a forward pass; it changes the loss by rounding only.
        seed: Seed of the masks (BERT).

    Raises:
        InputError: `model` is a classifier without a token head.
    """
    outputs = _per_image(model, tokens, batch_size, seed)
    if "nll" not in outputs:
        raise InputError("generative_weight must be above 0 for a generative loss, got 0")
    return float(outputs["nll"].mean())


def bits_per_pixel(model: GenerativeModel, nll: float | None) -> float | None:
    """Returns a generative loss in bits per pixel: the bits of all n tokens, divided by R².

    Args:
        model: The model of the loss.
        nll: The loss in nats per token; None, which is returned, for a model without one.
    """
    config = model.config
    tokens_per_pixel = config.sequence_length / config.image_size**2
    return None if nll is None else nll / math.log(2) * tokens_per_pixel


def bits_per_dimension(model: GenerativeModel, nll: float | None) -> float | None:
    """Returns a loss in bits per channel of a pixel, as the literature reports densities.

    These are the bits of an image, divided by 3 · R². Only a model that gives whole images a
    probability has them: an autoregressive one whose tokenizer is lossless. The tokens of a
    palette are a coarser image, whose bits say nothing about the image itself.

    Args:
        model: The model of the loss.
        nll: The loss in nats per token, or None.

    Returns:
        Bits per dimension; None for other models, or without a loss.
    """
    lossless = model.tokenizer is not None and model.tokenizer.lossless
    bits = bits_per_pixel(model, nll)
    return bits / 3 if bits is not None and lossless and model.objective == "ar" else None


def _per_image(
    model: GenerativeModel,
    tokens: np.ndarray,
    batch_size: int,
    seed: int,
    labels: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Returns `model.per_image` as float64 [K, N, …] under K masks; K = 1 for AR."""
    per_image: Any = MethodModel(model, "per_image")
    votes = [
        per_image.predict(
            masked_inputs(model, tokens, seed, vote, labels),
            batch_size,
            verbose=0,  # pyright: ignore[reportArgumentType]
        )
        for vote in range(VOTES if model.objective == "bert" else 1)
    ]
    return {name: np.stack([vote[name] for vote in votes]).astype(np.float64) for name in votes[0]}


def _mean_log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns log of the mean probability over masks, up to a constant, float64 [N, C].

    Args:
        logits: float64 [K, N, C]; those of one mask are returned as they are.
    """
    if len(logits) == 1:
        return logits[0]
    normalized = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
    return np.logaddexp.reduce(normalized, axis=0)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean over K masks and N images in nats; logits float64 [K, N, C]."""
    right = np.take_along_axis(logits, labels[None, :, None].astype(np.int64), axis=2)[..., 0]
    return float((np.logaddexp.reduce(logits, axis=2) - right).mean())
