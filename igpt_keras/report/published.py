"""Rows of the paper's tables (see `igpt_keras.paper`); accuracies in percent."""

from typing import NamedTuple

from igpt_keras import paper

UNSUPERVISED = "ImageNet without labels"
SUPERVISED = "ImageNet with labels"
MIXED = "ImageNet and web images without labels"
NONE = "none"


class ProbeRow(NamedTuple):
    """A linear probe (tables 1 and 2, section 4.4): millions of parameters, side in pixels."""

    model: str
    pretraining: str
    accuracy: float
    parameters: int | None = None
    image_size: int | None = None
    features: str | None = None


class FineTuningRow(NamedTuple):
    """A fine-tuned network (table 3, sections 4.5 and 4.6)."""

    model: str
    pretraining: str
    accuracy: float
    image_size: int | None = None


class LowDataRow(NamedTuple):
    """Mean and standard deviation of the error by labels per class (table 4)."""

    model: str
    errors: dict[int, tuple[float, float]]


BEST = "best layer"
LINEAR_PROBES = {
    "CIFAR-10": (
        ProbeRow("ResNet-152", SUPERVISED, 94.0),
        ProbeRow("SimCLR", UNSUPERVISED, 95.3),
        ProbeRow("iGPT-L", UNSUPERVISED, 96.3, 1362, 32, BEST),
    ),
    "CIFAR-100": (
        ProbeRow("ResNet-152", SUPERVISED, 78.0),
        ProbeRow("SimCLR", UNSUPERVISED, 80.2),
        ProbeRow("iGPT-L", UNSUPERVISED, 82.8, 1362, 32, BEST),
    ),
    "STL-10": (
        ProbeRow("AMDIM-L", UNSUPERVISED, 94.2),
        ProbeRow("iGPT-L", UNSUPERVISED, 95.5, 1362, 32, BEST),
    ),
    "ImageNet": (
        ProbeRow("iGPT-S", UNSUPERVISED, 41.9, 76, 32, BEST),
        ProbeRow("iGPT-M", UNSUPERVISED, 54.5, 455, 32, BEST),
        ProbeRow("Rotation", UNSUPERVISED, 55.4, 86, features="8192"),
        ProbeRow("iGPT-L", UNSUPERVISED, 60.3, 1362, 32, BEST),
        ProbeRow("BigBiGAN", UNSUPERVISED, 61.3, 86, features="8192"),
        ProbeRow("iGPT-L", UNSUPERVISED, 65.2, 1362, 48, BEST),
        ProbeRow("AMDIM", UNSUPERVISED, 68.1, 626, features="8192"),
        ProbeRow("MoCo", UNSUPERVISED, 68.6, 375, features="8192"),
        ProbeRow("iGPT-XL", MIXED, 68.7, 6801, 64, BEST),
        ProbeRow("SimCLR", UNSUPERVISED, 69.3, 24, features="2048"),
        ProbeRow("CPC v2", UNSUPERVISED, 71.5, 303, features="8192"),
        ProbeRow("iGPT-XL", MIXED, 72.0, 6801, 64, "5 layers concatenated"),
        ProbeRow("SimCLR", UNSUPERVISED, 76.5, 375, features="8192"),
    ),
}

FINE_TUNINGS = {
    "CIFAR-10": (
        FineTuningRow("AutoAugment", NONE, 98.5),
        FineTuningRow("SimCLR", UNSUPERVISED, 98.6),
        FineTuningRow("GPipe", SUPERVISED, 99.0),
        FineTuningRow("iGPT-L, BERT", UNSUPERVISED, 98.6, 32),
        FineTuningRow("iGPT-L", UNSUPERVISED, 99.0, 32),
    ),
    "CIFAR-100": (
        FineTuningRow("iGPT-L", UNSUPERVISED, 88.5, 32),
        FineTuningRow("SimCLR", UNSUPERVISED, 89.0),
        FineTuningRow("AutoAugment", NONE, 89.3),
        FineTuningRow("EfficientNet", SUPERVISED, 91.7),
    ),
    "ImageNet": (
        FineTuningRow("iGPT-L", NONE, 53.2, 48),
        FineTuningRow("iGPT-L", UNSUPERVISED, 66.3, 32),
        FineTuningRow("iGPT-L, BERT", UNSUPERVISED, 66.5, 32),
        FineTuningRow("Isometric Neural Nets", NONE, 70.2, 28),
        FineTuningRow("iGPT-L", UNSUPERVISED, 72.6, 48),
    ),
}

# The paper has no value of Mean Teacher for 40 labels; which two labels its values belong to
# is known from FixMatch's paper, their source.
LOW_DATA = {
    "CIFAR-10": (
        LowDataRow("Mean Teacher", {25: (32.3, 2.3), 400: (9.2, 0.2)}),
        LowDataRow("MixMatch", {4: (47.5, 11.5), 25: (11.0, 0.9), 400: (6.4, 0.1)}),
        LowDataRow("iGPT-L", {4: (26.8, 1.5), 25: (12.4, 0.6), 400: (5.7, 0.1)}),
        LowDataRow("UDA", {4: (29.0, 5.9), 25: (8.8, 1.1), 400: (4.9, 0.2)}),
        LowDataRow("FixMatch RA", {4: (13.8, 3.4), 25: (5.1, 0.7), 400: (4.3, 0.1)}),
        LowDataRow("FixMatch CTA", {4: (11.4, 3.4), 25: (5.1, 0.3), 400: (4.3, 0.2)}),
    ),
}

# Published with the code: nats per pixel on ImageNet's official test split, at 32×32.
TEST_LOSS_STEPS = paper.TRAINING_STEPS
TEST_LOSSES = {
    "ImageNet": (("iGPT-S", 76, 2.0895), ("iGPT-M", 455, 2.0614), ("iGPT-L", 1362, 2.0466))
}

DATA_SETS = {
    "CIFAR-10": ("cifar", 10),
    "CIFAR-100": ("cifar", 100),
    "STL-10": ("stl", 10),
    "ImageNet": ("imagenet", 1000),
}


def data_set_of(name: str, classes: int | None) -> str | None:
    """Returns the paper's name of a data set; None for one that is not in the paper.

    Args:
        name: Such as "tfds:cifar10" or "folder:/images/cifar10"; the first source of a mixture
            counts, as its test split is used.
        classes: The number of its classes.
    """
    kind, _, location = name.split(" + ")[0].partition("@")[0].partition(":")
    parts = [part for part in location.lower().split("/") if part]
    if not parts:
        return None
    # TFDS has variants after the slash; a path ends in the folder's own name.
    own = parts[0] if kind == "tfds" else parts[-1]
    for known, (prefix, number) in DATA_SETS.items():
        if classes == number and own.startswith(prefix):
            return known
    return None
