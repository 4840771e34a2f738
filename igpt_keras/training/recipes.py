"""Generative pre-training (paper, appendix "Experimental details")."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from igpt_keras import paper
from igpt_keras.errors import InputError
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager
from igpt_keras.training.optimizers import adam, warmup_cosine
from igpt_keras.training.resumable_fit import resumable_fit


def pretrain(
    model: ImageGPT,
    train: np.ndarray | Callable[[int], Any],
    validation: np.ndarray | dict[str, np.ndarray],
    *,
    epochs: int,
    steps_per_epoch: int | None = None,
    warmup_steps: int | None = None,
    batch_size: int = paper.BATCH_SIZE,
    learning_rate: float = paper.LEARNING_RATE,
    clip_norm: float | None = None,
    seed: int = 0,
    checkpoints: CheckpointManager | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> dict[str, list[float]]:
    """Compiles and fits `model`: Adam (0.9, 0.95), linear warm-up, then a cosine to 0.

    Args:
        model: of either objective, made under the strategy it is to train with.
        train: tokens int32 [N, n]; or a function from a step to the batches of inputs, without
            end, that come from that step on: a `tf.data.Dataset`, or what `distribute` makes of
            some.
        validation: tokens int32 [M, n], evaluated after every epoch. Give BERT its masks
            with them, or it draws others every time; likewise in `train`.
        epochs: passes over the tokens, or over `steps_per_epoch` batches.
        steps_per_epoch: where `train` is a function: batches between two evaluations.
        warmup_steps: one epoch, as in the paper, unless given.
        batch_size: of tokens given as an array; 128 in the paper.
        learning_rate: the peak; 0.003 for the paper's S.
        clip_norm: the largest global norm of a gradient; None, as in the paper, for any.
        seed: of the order of the images and, for BERT, of the masks.
        checkpoints: from the last of which training goes on, and which it writes; `train` must be
            a function then. On one CPU device it ends with the very weights of a training that
            was never interrupted.
        callbacks: of Keras.
        verbose: as in `fit`.

    Returns: for each figure its value after every epoch, also of those before training went
    on; losses in nats per pixel.

    Raises:
        InputError: a function without `steps_per_epoch`, `checkpoints` with an array, or the
            checkpoints of another model.
        Interrupted: `checkpoints.stop` was called; a state is written.
    """
    keras.utils.set_random_seed(seed)
    streamed = callable(train)
    if streamed and steps_per_epoch is None:
        raise InputError("steps_per_epoch must be given where the images to train on have no end")
    if checkpoints is not None and not streamed:
        raise InputError("checkpoints need train as a function from a step to batches, got arrays")
    steps = steps_per_epoch if streamed else math.ceil(len(train) / batch_size)
    schedule = warmup_cosine(
        learning_rate,
        warmup_steps=steps if warmup_steps is None else warmup_steps,
        total_steps=epochs * steps,
    )
    with model.distribute_scope():
        model.compile(adam(schedule, clip_norm))
    fitting = {
        "epochs": epochs,
        "validation_data": (validation, None),
        "validation_batch_size": batch_size,
        "callbacks": callbacks,
        "verbose": verbose,
    }
    if not streamed:
        return model.fit(train, batch_size=batch_size, **fitting).history
    return resumable_fit(model, train, steps_per_epoch=steps, checkpoints=checkpoints, **fitting)
