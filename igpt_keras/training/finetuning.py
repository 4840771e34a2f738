"""Fine-tuning with early stopping (paper, section 2.4)."""

from collections.abc import Sequence

import keras
import numpy as np

from igpt_keras.models import ImageGPTClassifier
from igpt_keras.training.optimizers import adam


def finetune(
    classifier: ImageGPTClassifier,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    *,
    epochs: int,
    patience: int,
    batch_size: int = 128,
    learning_rate: float = 0.0003,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> dict[str, list[float]]:
    """Compiles and fits `classifier`; it ends with the weights of its best epoch.

    Adam (0.9, 0.95) at a constant rate, as in the paper. Best means the highest
    validation accuracy, and of equal ones the earliest.

    Args:
        classifier: pre-trained or new.
        train: tokens int32 [N, n] and labels int32 [N].
        validation: the same, for early stopping.
        epochs: at most so many passes.
        patience: stop after so many epochs without a better validation accuracy.
        batch_size: 128 in the paper.
        learning_rate: often 10× below that of pre-training.
        seed: of the order of the images and, for BERT, of the masks.
        callbacks: of Keras.
        verbose: as in `fit`.

    Returns: the history: for each figure its value after every epoch.
    """
    keras.utils.set_random_seed(seed)
    classifier.compile(adam(learning_rate))
    early_stopping = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=patience, restore_best_weights=True
    )
    return classifier.fit(
        *train,
        validation_data=validation,
        epochs=epochs,
        batch_size=batch_size,
        callbacks=[early_stopping, *callbacks],
        verbose=verbose,
    ).history
