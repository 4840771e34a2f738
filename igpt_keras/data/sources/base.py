"""What every kind of source gives."""

import dataclasses

from igpt_keras import paper
from igpt_keras.data.splits import Split


@dataclasses.dataclass(frozen=True)
class Source:
    """The images of one source, as it splits them itself.

    Attributes:
        train: all that may be trained on.
        validation: the source's own validation split, or None: some of `train` is held out.
        test: the official test split, or None.
        class_names: one for each label; empty without labels.
        validation_fraction: the share of `train` that is held out.
    """

    train: Split
    validation: Split | None
    test: Split | None
    class_names: list[str]
    validation_fraction: float = paper.VALIDATION_FRACTION
