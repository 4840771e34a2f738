"""Generative pre-training (paper, section 2.2 and appendix)."""

import math
from collections.abc import Sequence

import keras
import numpy as np

from igpt_keras.models import ImageGPT
from igpt_keras.training.optimizers import adam, warmup_cosine


def pretrain(
    model: ImageGPT,
    tokens: np.ndarray,
    validation_tokens: np.ndarray,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 0.003,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> dict[str, list[float]]:
    """Compiles and fits `model`: Adam (0.9, 0.95), one epoch of warm-up, then a cosine to 0.

    Args:
        model: of either objective.
        tokens: int32 [N, n] to train on.
        validation_tokens: int32 [M, n], evaluated after every epoch.
        epochs: passes over `tokens`.
        batch_size: 128 in the paper.
        learning_rate: the peak; 0.003 for the paper's S.
        seed: of the order of the images and, for BERT, of the masks.
        callbacks: of Keras.
        verbose: as in `fit`.

    Returns: the history: for each figure its value after every epoch; losses in
    nats per pixel.
    """
    keras.utils.set_random_seed(seed)
    steps = math.ceil(len(tokens) / batch_size)
    schedule = warmup_cosine(learning_rate, warmup_steps=steps, total_steps=epochs * steps)
    model.compile(adam(schedule))
    return model.fit(
        tokens,
        validation_data=(validation_tokens, None),
        epochs=epochs,
        batch_size=batch_size,
        callbacks=list(callbacks),
        verbose=verbose,
    ).history
