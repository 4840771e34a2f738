"""Which classes a classifier takes for which others, in numbers and in pictures.

`confusion` of a result's metrics:

| key | value |
| --- | --- |
| `class_names` | names of the classes |
| `matrix` | images of each label (row) and prediction (column); None above 100 classes |
| `most_confused` | the most frequent errors: `label`, `predicted`, `images` and their `share` |

The share is that of the images with this label.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from igpt_keras.evaluation.predictions import Predictions
from igpt_keras.pictures.contact_sheets import contact_sheet, save_png
from igpt_keras.runs.folder import CONFUSIONS_FILE

MOST_CLASSES = 100  # of a matrix in a result
NUM_PAIRS = 10
PICTURED_PAIRS, PICTURES_OF_PAIR = 6, 8


def describe_confusions(predictions: Predictions, class_names: Sequence[str]) -> dict[str, Any]:
    """Returns the table of this module, JSON-serializable."""
    few = predictions.num_classes <= MOST_CLASSES
    images = np.bincount(predictions.labels, minlength=predictions.num_classes)
    return {
        "class_names": list(class_names),
        "matrix": predictions.confusion_matrix().tolist() if few else None,
        "most_confused": [
            {
                "label": class_names[label],
                "predicted": class_names[predicted],
                "images": count,
                "share": count / int(images[label]),
            }
            for label, predicted, count in predictions.most_confused(NUM_PAIRS)
        ],
    }


def draw_confusions(
    folder: pathlib.Path,
    predictions: Predictions,
    class_names: Sequence[str],
    read: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Writes images of the most frequent errors to a file in `folder`; none without errors.

    Args:
        folder: Where to write to.
        predictions: Predictions of the images.
        class_names: A name for each class.
        read: Returns the images of these indices, uint8 [m, H, W, 3].
    """
    rows, names = [], []
    for label, predicted, count in predictions.most_confused(PICTURED_PAIRS):
        chosen = (predictions.labels == label) & (predictions.classes == predicted)
        rows.append(read(np.flatnonzero(chosen)[:PICTURES_OF_PAIR]))
        names.append(f"{class_names[label]} as {class_names[predicted]}: {count:,}")
    if rows:
        save_png(contact_sheet(rows, labels=names), folder / CONFUSIONS_FILE)
