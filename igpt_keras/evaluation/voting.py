"""BERT models are masked at evaluation too, and vote (paper, section 4.6)."""

import numpy as np

from igpt_keras import paper

VOTES = paper.NUM_VOTES


def modal_vote(predictions: np.ndarray, num_classes: int, seed: int = 0) -> np.ndarray:
    """The class that most votes are for; of equally many, one at random.

    Args:
        predictions: int [K, N], K votes on N images, in 0…`num_classes` - 1.
        num_classes: C.
        seed: of the choice between ties, >= 0.

    Returns: int32 [N].
    """
    images = np.arange(predictions.shape[1])
    votes = np.zeros((len(images), num_classes), np.int32)
    for vote in predictions:
        votes[images, vote] += 1
    chance = np.random.default_rng(seed).random(votes.shape)
    tied = votes == votes.max(axis=1, keepdims=True)
    return np.where(tied, chance, -1).argmax(axis=1).astype(np.int32)
