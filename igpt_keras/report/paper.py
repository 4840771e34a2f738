"""Rows of the paper's tables (Generative Pretraining from Pixels), accuracies in percent."""

import dataclasses

UNSUPERVISED = "ImageNet without labels"
SUPERVISED = "ImageNet with labels"
MIXED = "ImageNet and web images without labels"
NONE = "none"


@dataclasses.dataclass(frozen=True)
class ProbeRow:
    """Tables 1 and 2, and section 4.4: a linear probe.

    `parameters` in millions; `image_size` is the side of the input in pixels, None for the
    usual one of the data set or of the model.
    """

    model: str
    pretraining: str
    accuracy: float
    parameters: int | None = None
    image_size: int | None = None
    features: str | None = None


@dataclasses.dataclass(frozen=True)
class FineTuningRow:
    """Table 3, and sections 4.5 and 4.6: a network trained whole."""

    model: str
    pretraining: str
    accuracy: float
    image_size: int | None = None


@dataclasses.dataclass(frozen=True)
class LowDataRow:
    """Table 4: error in percent, mean and standard deviation, by labels per class."""

    model: str
    errors: dict[int, tuple[float, float]]


IGPT_S = {"parameters": 76, "image_size": 32, "features": "best layer"}
IGPT_M = {**IGPT_S, "parameters": 455}
IGPT_L = {**IGPT_S, "parameters": 1362}
IGPT_XL = {"parameters": 6801, "image_size": 64}

LINEAR_PROBES = {
    "CIFAR-10": (
        ProbeRow("ResNet-152", SUPERVISED, 94.0),
        ProbeRow("SimCLR", UNSUPERVISED, 95.3),
        ProbeRow("iGPT-L", UNSUPERVISED, 96.3, **IGPT_L),
    ),
    "CIFAR-100": (
        ProbeRow("ResNet-152", SUPERVISED, 78.0),
        ProbeRow("SimCLR", UNSUPERVISED, 80.2),
        ProbeRow("iGPT-L", UNSUPERVISED, 82.8, **IGPT_L),
    ),
    "STL-10": (
        ProbeRow("AMDIM-L", UNSUPERVISED, 94.2),
        ProbeRow("iGPT-L", UNSUPERVISED, 95.5, **IGPT_L),
    ),
    "ImageNet": (
        ProbeRow("iGPT-S", UNSUPERVISED, 41.9, **IGPT_S),
        ProbeRow("iGPT-M", UNSUPERVISED, 54.5, **IGPT_M),
        ProbeRow("Rotation", UNSUPERVISED, 55.4, 86, features="8192"),
        ProbeRow("iGPT-L", UNSUPERVISED, 60.3, **IGPT_L),
        ProbeRow("BigBiGAN", UNSUPERVISED, 61.3, 86, features="8192"),
        ProbeRow("iGPT-L", UNSUPERVISED, 65.2, **{**IGPT_L, "image_size": 48}),
        ProbeRow("AMDIM", UNSUPERVISED, 68.1, 626, features="8192"),
        ProbeRow("MoCo", UNSUPERVISED, 68.6, 375, features="8192"),
        ProbeRow("iGPT-XL", MIXED, 68.7, **IGPT_XL, features="best layer"),
        ProbeRow("SimCLR", UNSUPERVISED, 69.3, 24, features="2048"),
        ProbeRow("CPC v2", UNSUPERVISED, 71.5, 303, features="8192"),
        ProbeRow("iGPT-XL", MIXED, 72.0, **IGPT_XL, features="5 layers concatenated"),
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

# Our copy of Table 4 lost the empty cell of Mean Teacher's row, which has no figure for 40
# labels; FixMatch's paper, where the row comes from, has its two figures at 250 and 4000.
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

# Published beside the code: 32² input, 1M steps, nats per pixel on the official test split.
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
    """The paper's name of a data set; None for one that the paper does not have.

    Args:
        name: such as "tfds:cifar10" or "folder:/images/cifar10"; of a mixture the first
            source counts, where the test split comes from.
        classes: how many it has.
    """
    kind, _, location = name.split(" + ")[0].partition("@")[0].partition(":")
    parts = [part for part in location.lower().split("/") if part]
    if not parts:
        return None
    # TFDS names a variant after the slash, a path ends in the folder's own name.
    own = parts[0] if kind == "tfds" else parts[-1]
    for known, (prefix, number) in DATA_SETS.items():
        if classes == number and own.startswith(prefix):
            return known
    return None
