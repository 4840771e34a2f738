"""Fine-tuning with early stopping (paper, section 2.4)."""

import dataclasses
from collections.abc import Sequence

import keras

from igpt_keras.errors import InputError
from igpt_keras.models import ImageGPTClassifier
from igpt_keras.training.optimizers import adam


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """What happened during `finetune`.

    Attributes:
        history: for each figure its value after every epoch.
        best_epoch: the epoch whose weights the classifier has, from 1.
    """

    history: dict[str, list[float]]
    best_epoch: int


def finetune(
    classifier: ImageGPTClassifier,
    train,
    validation: tuple | None,
    *,
    epochs: int,
    patience: int,
    batch_size: int = 128,
    steps_per_epoch: int | None = None,
    learning_rate: float = 0.0003,
    clip_norm: float | None = None,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> FineTuning:
    """Compiles and fits `classifier`; it ends with the weights of its best epoch.

    Adam (0.9, 0.95) at a constant rate, as in the paper. Best means the highest
    validation accuracy, and of equal ones the earliest; without a validation part,
    the last of all `epochs`.

    Args:
        classifier: pre-trained or new.
        train: inputs (tokens int32 [N, n], or these with masks) and labels int32 [N]; or
            batches of both without end, a `tf.data.Dataset` or what `share_out` makes of some.
        validation: inputs of the classifier and labels int32 [M], for early stopping; or
            None. Give BERT its masks with the tokens, or it draws others in every epoch.
        epochs: at most so many passes.
        patience: stop after so many epochs without a better validation accuracy.
        batch_size: 128 in the paper; that of arrays, a data set has its own.
        steps_per_epoch: of a data set.
        learning_rate: often 10× below that of pre-training.
        clip_norm: the largest global norm of a gradient; None, as in the paper, for any.
        seed: of the order of arrays and, for BERT, of the masks.
        callbacks: of Keras.
        verbose: as in `fit`.

    Raises:
        InputError: a data set without `steps_per_epoch`.
    """
    streamed = not isinstance(train, tuple)
    if streamed and steps_per_epoch is None:
        raise InputError("steps_per_epoch must be given where the images to train on have no end")
    keras.utils.set_random_seed(seed)
    with classifier.distribute_scope():
        classifier.compile(adam(learning_rate, clip_norm))
    early_stopping = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=patience, restore_best_weights=True
    )
    history = classifier.fit(
        *([train] if streamed else train),
        batch_size=None if streamed else batch_size,
        shuffle=not streamed,
        steps_per_epoch=steps_per_epoch,
        validation_data=validation,
        validation_batch_size=batch_size,
        epochs=epochs,
        callbacks=[*([early_stopping] if validation is not None else []), *callbacks],
        verbose=verbose,
    ).history
    best_epoch = epochs if validation is None else early_stopping.best_epoch + 1
    return FineTuning(history, best_epoch)
