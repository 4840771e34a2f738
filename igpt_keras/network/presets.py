"""Named sizes, and how a model is pre-trained where nothing else is said.

This is the one place for both. The paper's four models take the paper's batches; the two smaller
ones are for a few CPU cores.
"""

from igpt_keras import paper
from igpt_keras.errors import InputError

PRESETS = {
    "image_gpt_nano": {
        "num_layers": 4,
        "hidden_dim": 128,
        "num_heads": 2,
        "image_size": 16,
        "vocabulary_size": 256,
    },
    "image_gpt_tiny": {
        "num_layers": 6,
        "hidden_dim": 192,
        "num_heads": 3,
        "image_size": 32,
        "vocabulary_size": paper.PALETTE_SIZE,
    },
    **{
        name: {**sizes, "vocabulary_size": paper.PALETTE_SIZE}
        for name, sizes in paper.PRESETS.items()
    },
}
"""Arguments of `ImageGPTConfig` by name. Heads of the small models are as wide as those of S."""

DEFAULT_PRESET = "image_gpt_nano"
"""The preset of a model whose sizes are not given."""

EPOCHS = 20
"""Passes over the images."""

LABEL_DROPOUT = 0.1
"""Probability that training hides a label from a class-conditional model.

0.1 and 0.2 were about equally good, 0.5 was worse (Ho and Salimans, 2022, section 4.1).
"""

BATCH_SIZES = {
    "image_gpt_nano": 32,
    "image_gpt_tiny": 32,
    **dict.fromkeys(paper.PRESETS, paper.BATCH_SIZE),
    "image_gpt_xlarge": paper.XLARGE_BATCH_SIZE,
}
"""Images in a step, by preset."""


def learning_rate(preset: str, hidden_dim: int, image_size: int, objective: str) -> float:
    """Returns the peak learning rate for a preset whose sizes may have been changed.

    It is the rate that the paper found for the model nearest in width, then in image size. Models
    that are not the paper's get at most 0.003: small BERT models learned less at 0.01.
    """
    rate = paper.learning_rate(hidden_dim, image_size, objective)
    return rate if preset in paper.PRESETS else min(rate, paper.LEARNING_RATE)


def sizes_of(preset: str) -> dict[str, int]:
    """Returns the arguments of `ImageGPTConfig` for a preset.

    Raises:
        InputError: There is no preset of that name.

    Example:
        >>> sizes_of("image_gpt_small")["hidden_dim"]
        512
    """
    if preset not in PRESETS:
        raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    return PRESETS[preset]
