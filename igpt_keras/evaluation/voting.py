"""Votes of a BERT model, which is masked at evaluation too (paper, section 4.6)."""

import numpy as np

from igpt_keras import paper

VOTES = paper.NUM_VOTES


def modal_vote(predictions: np.ndarray, num_classes: int, seed: int = 0) -> np.ndarray:
    """Returns the class that most votes are for; of equally many, one at random.

    Args:
        predictions: int [K, N], K votes on each of N images, in 0…`num_classes` - 1.
        num_classes: C.
        seed: Seed of the choice between ties, at least 0.

    Returns:
        int32 [N].

    Example:
        >>> modal_vote(np.array([[0, 2], [0, 1], [1, 1]]), num_classes=3)
        array([0, 1], dtype=int32)
    """
    images = np.arange(predictions.shape[1])
    votes = np.zeros((len(images), num_classes), np.int32)
    for vote in predictions:
        votes[images, vote] += 1
    chance = np.random.default_rng(seed).random(votes.shape)
    tied = votes == votes.max(axis=1, keepdims=True)
    return np.where(tied, chance, -1).argmax(axis=1).astype(np.int32)
