"""The embedded data set: scikit-learn's handwritten digits."""

import numpy as np
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.model_selection import train_test_split

from igpt_keras.data.labeled import LabeledImages, Splits

MAX_VALUE = 16


def load_digits(seed: int = 0) -> Splits:
    """The 1,797 handwritten digits that come with scikit-learn, 8×8, ten classes.

    1,257 images to train, 180 for validation (10% of all) and 360 for test (20%),
    each with the same share of every digit. Gray values 0…16 become uint8 0…255.

    Args:
        seed: of the split.

    Returns: images uint8 [N, 8, 8, 3], labels int32 [N].
    """
    digits = sklearn_digits()
    gray = np.rint(digits.images * (255 / MAX_VALUE)).astype(np.uint8)
    images = np.repeat(gray[..., None], 3, axis=-1)
    labels = digits.target.astype(np.int32)
    indices = np.arange(len(labels))
    rest, test = train_test_split(indices, test_size=360, stratify=labels, random_state=seed)
    train, validation = train_test_split(
        rest, test_size=180, stratify=labels[rest], random_state=seed
    )
    return Splits(
        *(LabeledImages(images[split], labels[split]) for split in (train, validation, test)),
        class_names=[str(name) for name in digits.target_names],
    )
