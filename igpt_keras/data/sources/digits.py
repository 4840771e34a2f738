"""The data set that needs no download: scikit-learn's handwritten digits."""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from igpt_keras.data.source import TEST, TRAIN, VALIDATION, Source
from igpt_keras.data.sources import register_source
from igpt_keras.data.splits import ArraySplit

NUM_VALIDATION, NUM_TEST = 180, 360
MAX_GRAY = 16


@register_source("digits")
def open_digits(seed: int = 0) -> Source:
    """Opens the 1,797 handwritten digits of scikit-learn: 8×8 pixels, ten classes.

    1,257 images are for training, 180 for validation and 360 for testing; each split has the
    same proportion of every digit. Gray levels 0…16 become 0…255.

    Args:
        seed: Determines which images go to which split.
    """
    digits: Any = load_digits()  # scikit-learn declares the type of another of its forms.
    gray = np.rint(digits.images * (255 / MAX_GRAY)).astype(np.uint8)
    images = np.repeat(gray[..., None], 3, axis=-1)
    labels = digits.target.astype(np.int32)
    indices = np.arange(len(labels))
    rest, test = train_test_split(indices, test_size=NUM_TEST, stratify=labels, random_state=seed)
    train, validation = train_test_split(
        rest, test_size=NUM_VALIDATION, stratify=labels[rest], random_state=seed
    )
    return Source(
        *(
            ArraySplit(f"digits, {name}", images[chosen], labels[chosen])
            for name, chosen in ((TRAIN, train), (VALIDATION, validation), (TEST, test))
        ),
        class_names=[str(name) for name in digits.target_names],
    )
