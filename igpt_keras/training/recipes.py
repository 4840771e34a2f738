"""The paper's training recipe: optimizer, schedule, pre-training, fine-tuning.

- Pre-training (section 3.4): Adam with β₁ = 0.9, β₂ = 0.95 and no weight decay, batches of 128,
  a linear warm-up over one epoch, then a cosine to 0.
- Fine-tuning (sections 2.4, 3.4 and 4.5): the same Adam at a constant rate, ten times lower, until
  the validation accuracy no longer improves.

`igpt_keras.paper` holds the numbers.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from igpt_keras import paper
from igpt_keras.errors import InputError
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager
from igpt_keras.training.callbacks.early_stopping import EarlyStopping
from igpt_keras.training.resumable_fit import Batches, epoch_ends, resumable_fit


def adam(
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    clip_norm: float | None = None,
) -> keras.optimizers.Adam:
    """Returns the paper's optimizer (section 3.4): Adam (0.9, 0.95) without weight decay.

    Args:
        learning_rate: A constant, or a Keras schedule such as `warmup_cosine`.
        clip_norm: Largest global norm of the gradient; None, as in the paper, does not clip.
    """
    rate: Any = learning_rate  # Keras declares a float only.
    return keras.optimizers.Adam(
        rate,
        beta_1=paper.ADAM_BETA_1,
        beta_2=paper.ADAM_BETA_2,
        global_clipnorm=clip_norm,
    )


def warmup_cosine(
    learning_rate: float, warmup_steps: int, total_steps: int
) -> keras.optimizers.schedules.CosineDecay:
    """Returns the paper's schedule (section 3.4): linear from 0 to the peak, a cosine to 0.

    Args:
        learning_rate: The peak, reached at `warmup_steps`.
        warmup_steps: Steps of the warm-up; one epoch in the paper.
        total_steps: The step at which the rate is 0 again.
    """
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(total_steps - warmup_steps, 1),
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
    )


def default_warmup_steps(steps_of_data: int, total_steps: int) -> int:
    """Returns the steps of one epoch, as in the paper (section 3.4), or half of a short training.

    Args:
        steps_of_data: Batches in a pass over the images.
        total_steps: Steps of the training.
    """
    return min(paper.WARMUP_EPOCHS * steps_of_data, total_steps // 2)


def pretrain(
    model: ImageGPT,
    train: np.ndarray | Batches,
    validation: np.ndarray | dict[str, np.ndarray],
    *,
    epochs: int,
    steps_per_epoch: int | Sequence[int] | None = None,
    warmup_steps: int | None = None,
    batch_size: int = paper.BATCH_SIZE,
    learning_rate: float = paper.LEARNING_RATE,
    clip_norm: float | None = None,
    remat: bool = False,
    micro_batches: int = 1,
    seed: int = 0,
    checkpoints: CheckpointManager | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> dict[str, list[float]]:
    """Compiles and fits `model` with the paper's recipe for pre-training (section 3.4).

    Args:
        model: A model of either objective, made under the strategy it trains with.
        train: Tokens int32 [N, n], or a function from a step to the endless batches of inputs
            that start at it.
        validation: Tokens int32 [M, n], evaluated after every epoch. For BERT, pass
            `{"tokens", "masked"}` (as in `train`) to use the same masks in every epoch.
        epochs: Passes over `train`, or over `steps_per_epoch` batches of it.
        steps_per_epoch: Batches between two evaluations, one number or one for each epoch;
            required where `train` is a function.
        warmup_steps: Steps of linear warm-up; None for one epoch as in the paper, and at most
            half of the steps.
        batch_size: Images in a batch of arrays.
        learning_rate: The peak of the schedule.
        clip_norm: Largest global norm of the gradient; None, as in the paper, does not clip.
        remat: As in `ImageGPT.compile`.
        micro_batches: As in `ImageGPT.compile`.
        seed: Decides the order of arrays and BERT's masks.
        checkpoints: Resumes from the last checkpoint and writes new ones. `train` must be a
            function then. On one CPU device the weights end up bit for bit those of an
            uninterrupted training.
        callbacks: Keras callbacks.
        verbose: As in `fit`.

    Returns:
        The value of each metric after every epoch, including the epochs before training was
        resumed; losses in nats per token.

    Raises:
        InputError: `train` is a function without `steps_per_epoch`, `checkpoints` are given
            with an array, or the last checkpoint belongs to another model.
        Interrupted: `checkpoints.stop` was called; a checkpoint is on disk.

    Example:
        ```python
        import igpt_keras
        from igpt_keras.data import open_data
        from igpt_keras.training import pretrain

        digits = open_data("digits")
        palette = igpt_keras.ColorPalette.fit(digits.train.images, num_colors=8)
        tokens = palette.tokenize(digits.train.images)
        config = igpt_keras.ImageGPTConfig(
            image_size=8, vocabulary_size=8, hidden_dim=16, num_layers=2, num_heads=2
        )
        model = igpt_keras.ImageGPT(config, tokenizer=palette)
        history = pretrain(model, tokens[:-100], tokens[-100:], epochs=1)
        ```
    """
    arrays = train if callable(train) else (train,)
    steps = _count_steps(arrays, batch_size, steps_per_epoch, checkpoints)
    ends = epoch_ends(steps, epochs)
    keras.utils.set_random_seed(seed)
    if warmup_steps is None:
        warmup_steps = default_warmup_steps(ends[0], ends[-1])
    schedule = warmup_cosine(learning_rate, warmup_steps, total_steps=ends[-1])
    with model.distribute_scope():
        optimizer = adam(schedule, clip_norm)
    model.compile(optimizer, remat=remat, micro_batches=micro_batches)
    return _fit(
        model,
        arrays,
        steps_per_epoch=steps,
        checkpoints=checkpoints,
        epochs=epochs,
        validation_data=(validation, None),
        batch_size=batch_size,
        callbacks=callbacks,
        verbose=verbose,
    )


@dataclasses.dataclass(frozen=True)
class FineTuningHistory:
    """What `finetune` did.

    Attributes:
        history: The value of each metric after every epoch.
        best_epoch: The epoch, from 1, whose weights the classifier has.
    """

    history: dict[str, list[float]]
    best_epoch: int


def finetune(
    classifier: ImageGPTClassifier,
    train: tuple | Batches,
    validation: tuple | None,
    *,
    epochs: int,
    patience: int,
    batch_size: int = paper.BATCH_SIZE,
    steps_per_epoch: int | None = None,
    learning_rate: float = paper.FINETUNING_LEARNING_RATE,
    clip_norm: float | None = None,
    remat: bool = False,
    micro_batches: int = 1,
    seed: int = 0,
    checkpoints: CheckpointManager | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> FineTuningHistory:
    """Compiles and fits `classifier` with the paper's recipe for fine-tuning (section 3.4).

    The classifier ends with the weights of the epoch with the highest validation accuracy (the
    earliest of equal ones), or, without validation data, with those of the last epoch.

    Args:
        classifier: A pre-trained classifier, or a new one.
        train: Inputs (tokens int32 [N, n], or a dictionary of these and masks) and labels
            int32 [N]; or a function from a step to the endless batches of both that start at
            it.
        validation: Inputs and labels int32 [M] for early stopping, or None. For BERT, pass
            `{"tokens", "masked"}` to use the same masks in every epoch.
        epochs: The most passes over `train`, or over `steps_per_epoch` batches of it.
        patience: Epochs without a better validation accuracy after which training stops.
        batch_size: Images in a batch of arrays, and of `validation`.
        steps_per_epoch: Batches between two evaluations; required where `train` is a function.
        learning_rate: The constant rate.
        clip_norm: Largest global norm of the gradient; None, as in the paper, does not clip.
        remat: As in `ImageGPT.compile`.
        micro_batches: As in `ImageGPT.compile`.
        seed: Decides the order of arrays and BERT's masks.
        checkpoints: As in `pretrain`.
        callbacks: Keras callbacks.
        verbose: As in `fit`.

    Returns:
        The metrics of all epochs, and the best epoch.

    Raises:
        InputError: `train` is neither arrays nor a function, or the arguments contradict each
            other as in `pretrain`.
        Interrupted: `checkpoints.stop` was called; a checkpoint is on disk.
    """
    if not (callable(train) or isinstance(train, tuple)):
        raise InputError(
            "train must be a tuple of inputs and labels, or a function from a step to batches "
            f"of both, got {type(train).__name__}"
        )
    steps = _count_steps(train, batch_size, steps_per_epoch, checkpoints)
    keras.utils.set_random_seed(seed)
    with classifier.distribute_scope():
        optimizer = adam(learning_rate, clip_norm)
    classifier.compile(optimizer, remat=remat, micro_batches=micro_batches)
    early_stopping = None if validation is None else EarlyStopping(patience)
    if checkpoints is not None and early_stopping is not None:
        checkpoints.register("early_stopping", early_stopping)
    history = _fit(
        classifier,
        train,
        steps_per_epoch=steps,
        checkpoints=checkpoints,
        should_stop=lambda: early_stopping is not None and early_stopping.should_stop,
        epochs=epochs,
        validation_data=validation,
        batch_size=batch_size,
        callbacks=[*callbacks] if early_stopping is None else [early_stopping, *callbacks],
        verbose=verbose,
    )
    if early_stopping is None:
        return FineTuningHistory(history, epochs)
    classifier.set_weights(early_stopping.best_weights)
    return FineTuningHistory(history, early_stopping.best_epoch + 1)


def _count_steps(
    train: tuple | Batches,
    batch_size: int,
    steps_per_epoch: int | Sequence[int] | None,
    checkpoints: CheckpointManager | None,
) -> int | Sequence[int]:
    """Returns the steps of an epoch; raises `InputError` where the arguments do not agree."""
    if callable(train):
        if steps_per_epoch is None:
            raise InputError("steps_per_epoch must be given where train is a function")
        return steps_per_epoch
    if checkpoints is not None:
        raise InputError("checkpoints need train as a function from a step to batches, got arrays")
    # Inputs may be tokens with masks, labels are one array.
    return math.ceil(len(train[-1]) / batch_size)


def _fit(
    model: ImageGPT | ImageGPTClassifier,
    train: tuple | Batches,
    *,
    steps_per_epoch: int | Sequence[int],
    checkpoints: CheckpointManager | None,
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
    **settings,
) -> dict[str, list[float]]:
    """Fits the arrays of `train`, or the batches that it returns; gives the metrics by epoch."""
    # An evaluation fits into memory if training does.
    settings["validation_batch_size"] = max(batch_size // model.micro_batches, 1)
    if not callable(train):
        return model.fit(*train, batch_size=batch_size, **settings).history
    return resumable_fit(
        model,
        train,
        steps_per_epoch=steps_per_epoch,
        checkpoints=checkpoints,
        should_stop=should_stop,
        **settings,
    )
