"""BERT models are masked at evaluation too, and vote (paper, section 4.6)."""

import numpy as np

VOTES = 5


def draw_mask(
    shape: tuple[int, int], probability: float, seed: int, vote: int, start: int = 0
) -> np.ndarray:
    """The mask M of a set of images: each position is in it independently.

    Args:
        shape: images and positions, (N, n).
        probability: of each position to be in M (0.15 in the paper).
        seed: of all votes, >= 0.
        vote: which of the independent masks of these images, >= 0.
        start: rows `start`, `start` + 1, … of the mask of a larger set, so that a
            set drawn batch by batch gets the masks it would get in one piece.

    Returns: bool [N, n].
    """
    bits = np.random.PCG64([seed, vote])
    bits.advance(start * shape[1])
    return np.random.Generator(bits).random(shape) < probability


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
