"""The mask M of BERT: which tokens the model does not see, and predicts.

Each position is in M independently with `paper.MASK_PROBABILITY` (paper, section 2.1), in
training and in evaluation (section 4.6). All masks are drawn here:

| for | function | the mask depends on |
| --- | --- | --- |
| evaluation, exported models | `draw_mask` | seed, vote, position in the data set |
| training streams | `draw_mask_of_step` | seed, step |
| calls without a mask | `draw_fresh_mask` | the state of the model's seed generator |
"""

from typing import Any

import keras
import numpy as np

from igpt_keras.tensors import Shape, Tensor


def draw_mask(
    shape: tuple[int, int], probability: float, seed: int, vote: int, start: int = 0
) -> np.ndarray:
    """Draws the mask M of a set of images with NumPy.

    Args:
        shape: number of images and of positions, (N, n).
        probability: of each position to be in M.
        seed: of all votes, >= 0.
        vote: which of the independent masks of these images, >= 0.
        start: index of the first image in a larger set; a set drawn batch by batch gets the
            masks that it would get in one piece.

    Returns:
        bool [N, n].

    Example:
        >>> draw_mask((100, 64), paper.MASK_PROBABILITY, seed=0, vote=0).shape
        (100, 64)
    """
    bits = np.random.PCG64([seed, vote])
    bits.advance(start * shape[1])
    return np.random.Generator(bits).random(shape) < probability


def masked_inputs(
    model: Any, tokens: np.ndarray, seed: int, vote: int = 0, labels: np.ndarray | None = None
) -> np.ndarray | dict[str, np.ndarray]:
    """Returns inputs of `model` that are the same at every evaluation.

    Args:
        model: An `ImageGPT` or `ImageGPTClassifier`.
        tokens: int [N, n].
        seed: As for `draw_mask`.
        vote: As for `draw_mask`.
        labels: int [N], for a class-conditional model that is to see them.

    Returns:
        `tokens` as int32 [N, n] for an autoregressive model, `{"tokens", "masked"}` for BERT,
        `{"tokens", "labels"}` with labels.
    """
    tokens = np.asarray(tokens, np.int32)
    if labels is not None:
        return {"tokens": tokens, "labels": np.asarray(labels, np.int32)}
    if model.objective == "ar":
        return tokens
    masked = draw_mask(tokens.shape, model.mask_probability, seed, vote)
    return {"tokens": tokens, "masked": masked}


def draw_mask_of_step(
    shape: tuple[int, int], probability: float, seed: int, step: Tensor
) -> Tensor:
    """Draws the mask M of a training batch in a TensorFlow graph.

    Args:
        shape: Images of the global batch and positions, (B, n).
        probability: Probability of each position to be in M.
        seed: Seed of the stream.
        step: int64 scalar tensor, the number of the batch.

    Returns:
        Bool tensor [B, n].
    """
    import tensorflow as tf

    return tf.random.stateless_uniform(shape, tf.stack([seed, step])) < probability


def draw_fresh_mask(shape: Shape, probability: float, seed: keras.random.SeedGenerator) -> Tensor:
    """Draws another mask M at every call, on any backend: bool [B, n]."""
    return keras.random.uniform(shape, dtype="float32", seed=seed) < probability
