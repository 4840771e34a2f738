"""Generative pre-training (paper, section 2.2 and appendix)."""

import math
from collections.abc import Sequence

import keras
import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.models import ImageGPT
from igpt_keras.training.optimizers import adam, warmup_cosine


def pretrain(
    model: ImageGPT,
    train,
    validation: np.ndarray | dict[str, np.ndarray],
    *,
    epochs: int,
    steps_per_epoch: int | None = None,
    warmup_steps: int | None = None,
    batch_size: int = 128,
    learning_rate: float = 0.003,
    clip_norm: float | None = None,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> dict[str, list[float]]:
    """Compiles and fits `model`: Adam (0.9, 0.95), linear warm-up, then a cosine to 0.

    Args:
        model: of either objective, made under the strategy it is to train with.
        train: tokens int32 [N, n]; or batches of inputs without end, a `tf.data.Dataset` or
            what `share_out` makes of some.
        validation: tokens int32 [M, n], evaluated after every epoch. Give BERT its masks
            with them, or it draws others every time; likewise in `train`.
        epochs: passes over the tokens, or over `steps_per_epoch` batches.
        steps_per_epoch: for a `tf.data.Dataset`: batches between two evaluations.
        warmup_steps: one epoch, as in the paper, unless given.
        batch_size: of tokens given as an array; 128 in the paper.
        learning_rate: the peak; 0.003 for the paper's S.
        clip_norm: the largest global norm of a gradient; None, as in the paper, for any.
        seed: of the order of the images and, for BERT, of the masks.
        callbacks: of Keras.
        verbose: as in `fit`.

    Returns: the history: for each figure its value after every epoch; losses in
    nats per pixel.

    Raises:
        InputError: a `tf.data.Dataset` without `steps_per_epoch`.
    """
    keras.utils.set_random_seed(seed)
    streamed = not isinstance(train, np.ndarray)
    if streamed and steps_per_epoch is None:
        raise InputError("steps_per_epoch must be given where the images to train on have no end")
    steps = steps_per_epoch if streamed else math.ceil(len(train) / batch_size)
    schedule = warmup_cosine(
        learning_rate,
        warmup_steps=steps if warmup_steps is None else warmup_steps,
        total_steps=epochs * steps,
    )
    with model.distribute_scope():
        model.compile(adam(schedule, clip_norm))
    return model.fit(
        train,
        validation_data=(validation, None),
        validation_batch_size=batch_size,
        epochs=epochs,
        steps_per_epoch=steps if streamed else None,
        batch_size=None if streamed else batch_size,
        shuffle=not streamed,
        callbacks=list(callbacks),
        verbose=verbose,
    ).history
