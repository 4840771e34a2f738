"""The images of one source, as opened."""

import dataclasses

from igpt_keras import paper
from igpt_keras.data.splits import Split

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclasses.dataclass(frozen=True)
class Source:
    """The images of one source, in the splits that the source comes with.

    Attributes:
        train: All images to train on.
        validation: The source's own validation split; None to hold out images of `train`.
        test: The official test split, or None.
        class_names: A name for each label; empty without labels.
        validation_fraction: Fraction of `train` to hold out where `validation` is None.
    """

    train: Split
    validation: Split | None = None
    test: Split | None = None
    class_names: list[str] = dataclasses.field(default_factory=list)
    validation_fraction: float = paper.VALIDATION_FRACTION
