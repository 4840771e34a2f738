"""Fine-tuning with early stopping (paper, section 2.4)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from igpt_keras import paper
from igpt_keras.errors import InputError
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager
from igpt_keras.training.optimizers import adam
from igpt_keras.training.resumable_fit import resumable_fit


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """What happened during `finetune`.

    Attributes:
        history: for each figure its value after every epoch.
        best_epoch: the epoch whose weights the classifier has, from 1.
    """

    history: dict[str, list[float]]
    best_epoch: int


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras' early stopping by the validation accuracy, over several `fit`s and processes.

    The best weights are for whoever calls `fit` to take.

    Args:
        patience: as in `finetune`.
    """

    def __init__(self, patience: int):
        super().__init__("val_accuracy", mode="max", patience=patience, restore_best_weights=True)
        super().on_train_begin()

    @property
    def ended(self) -> bool:
        """Whether `patience` epochs were no better."""
        return self.wait >= self.patience

    def on_train_begin(self, logs=None):
        """Keeps what it knows, that Keras would forget."""

    def on_train_end(self, logs=None):
        """Leaves the weights, that Keras would replace: the training may go on."""

    def get_state(self) -> dict[str, Any]:
        weights = {f"weight-{i:05d}": value for i, value in enumerate(self.best_weights or [])}
        known = {"best": self.best, "best_epoch": self.best_epoch, "wait": self.wait}
        return {**known, **weights}

    def set_state(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self.best, self.best_epoch = state.pop("best"), state.pop("best_epoch")
        self.wait = state.pop("wait")
        self.best_weights = [state[name] for name in sorted(state)] or None


def finetune(
    classifier: ImageGPTClassifier,
    train: tuple | Callable[[int], Any],
    validation: tuple | None,
    *,
    epochs: int,
    patience: int,
    batch_size: int = paper.BATCH_SIZE,
    steps_per_epoch: int | None = None,
    learning_rate: float = paper.FINETUNING_LEARNING_RATE,
    clip_norm: float | None = None,
    seed: int = 0,
    checkpoints: CheckpointManager | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> FineTuning:
    """Compiles and fits `classifier`; it ends with the weights of its best epoch.

    Adam (0.9, 0.95) at a constant rate, as in the paper. Best means the highest
    validation accuracy, and of equal ones the earliest; without a validation split,
    the last of all `epochs`.

    Args:
        classifier: pre-trained or new.
        train: inputs (tokens int32 [N, n], or these with masks) and labels int32 [N]; or a
            function from a step to the batches of both, without end, that come from that step
            on: a `tf.data.Dataset`, or what `distribute` makes of some.
        validation: inputs of the classifier and labels int32 [M], for early stopping; or
            None. Give BERT its masks with the tokens, or it draws others in every epoch.
        epochs: at most so many passes.
        patience: stop after so many epochs without a better validation accuracy.
        batch_size: 128 in the paper; that of arrays, and of validation.
        steps_per_epoch: where `train` is a function: batches between two evaluations.
        learning_rate: often 10× below that of pre-training.
        clip_norm: the largest global norm of a gradient; None, as in the paper, for any.
        seed: of the order of arrays and, for BERT, of the masks.
        checkpoints: from the last of which training goes on, and which it writes; `train` must be
            a function then. On one CPU device it ends with the very weights of a training that
            was never interrupted.
        callbacks: of Keras.
        verbose: as in `fit`.

    Raises:
        InputError: another kind of `train`, a function without `steps_per_epoch`,
            `checkpoints` with arrays, or the checkpoints of another model.
        Interrupted: `checkpoints.stop` was called; a state is written.
    """
    streamed = callable(train)
    if not (streamed or isinstance(train, tuple)):
        raise InputError(
            "train must be inputs and labels, or a function from a step to batches of both, got "
            f"{type(train).__name__}"
        )
    if streamed and steps_per_epoch is None:
        raise InputError("steps_per_epoch must be given where the images to train on have no end")
    if checkpoints is not None and not streamed:
        raise InputError("checkpoints need train as a function from a step to batches, got arrays")
    keras.utils.set_random_seed(seed)
    with classifier.distribute_scope():
        classifier.compile(adam(learning_rate, clip_norm))
    early_stopping = None if validation is None else EarlyStopping(patience)
    if checkpoints is not None and early_stopping is not None:
        checkpoints.register("early_stopping", early_stopping)
    fitting = {
        "epochs": epochs,
        "validation_data": validation,
        "validation_batch_size": batch_size,
        "callbacks": [*callbacks] if early_stopping is None else [early_stopping, *callbacks],
        "verbose": verbose,
    }
    if streamed:
        history = resumable_fit(
            classifier,
            train,
            steps_per_epoch=steps_per_epoch,
            checkpoints=checkpoints,
            ended=lambda: early_stopping is not None and early_stopping.ended,
            **fitting,
        )
    else:
        history = classifier.fit(*train, batch_size=batch_size, **fitting).history
    if early_stopping is None:
        return FineTuning(history, epochs)
    classifier.set_weights(early_stopping.best_weights)
    return FineTuning(history, early_stopping.best_epoch + 1)
