"""What a model gets right and what its losses are, on tokens it was not trained on."""

import dataclasses

import keras
import numpy as np

from igpt_keras import paper
from igpt_keras.errors import InputError
from igpt_keras.evaluation.voting import VOTES, modal_vote
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.models.masking import masked_inputs


@dataclasses.dataclass(frozen=True)
class ClassifierMetrics:
    """A classifier on one split of a data set.

    Attributes:
        accuracy: share of the images whose class is right; for BERT the class that most
            of `VOTES` masks are for, ties broken at random (paper, appendix).
        single_mask_accuracy: BERT's under the first of these masks; None for AR.
        classification_loss: L_CLF in nats; for BERT the mean over the masks.
        generative_loss: L_GEN in nats per pixel, likewise; None without a token head.
    """

    accuracy: float
    single_mask_accuracy: float | None
    classification_loss: float
    generative_loss: float | None


def classifier_metrics(
    classifier: ImageGPTClassifier,
    tokens: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int = paper.BATCH_SIZE,
    seed: int = 0,
) -> ClassifierMetrics:
    """Accuracy and losses of `classifier`.

    Args:
        classifier: of either objective.
        tokens: int [N, n].
        labels: int [N].
        batch_size: of no influence on the metrics beyond rounding.
        seed: of the masks and of the choice between ties (BERT).

    Raises:
        InputError: labels that are not classes of `classifier`.
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
    predictions = modal_vote(votes, classifier.num_classes, seed) if bert else votes[0]
    return ClassifierMetrics(
        accuracy=float((predictions == labels).mean()),
        single_mask_accuracy=float((votes[0] == labels).mean()) if bert else None,
        classification_loss=_cross_entropy(logits, labels),
        generative_loss=float(outputs["nll"].mean()) if "nll" in outputs else None,
    )


def generative_loss(
    model: GenerativeModel, tokens: np.ndarray, *, batch_size: int = paper.BATCH_SIZE, seed: int = 0
) -> float:
    """L_GEN of `model` in nats per pixel; for BERT the mean over `VOTES` masks.

    Args: as `classifier_metrics`.

    Raises:
        InputError: a classifier without a token head.
    """
    outputs = _per_image(model, tokens, batch_size, seed)
    if "nll" not in outputs:
        raise InputError("generative_weight must be above 0 for a generative loss, got 0")
    return float(outputs["nll"].mean())


class PerImage(keras.Model):
    """A model's `per_image`, for `predict` to run batch by batch."""

    def __init__(self, model: GenerativeModel):
        super().__init__()
        self.model = model

    def call(self, inputs):
        return self.model.per_image(inputs)


def _per_image(model, tokens, batch_size, seed) -> dict[str, np.ndarray]:
    """`model.per_image` as float64 [K, N, …] under K masks; K = 1 for AR."""
    runner = PerImage(model)
    votes = [
        runner.predict(masked_inputs(model, tokens, seed, vote), batch_size, verbose=0)
        for vote in range(VOTES if model.objective == "bert" else 1)
    ]
    return {name: np.stack([vote[name] for vote in votes]).astype(np.float64) for name in votes[0]}


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean over K masks and N images, in nats: float64 [K, N, C], int [N]."""
    right = np.take_along_axis(logits, labels[None, :, None].astype(np.int64), axis=2)[..., 0]
    return float((np.logaddexp.reduce(logits, axis=2) - right).mean())
