"""Checks of a VQ-VAE's settings, from a caller or from a file."""

import math
from typing import Any

from igpt_keras.errors import InputError


def check_settings(settings: dict[str, Any]) -> None:
    """Raises `InputError` for an argument of `VQVAE` that cannot be used."""
    sizes = ("image_size", "num_downsampling", "codebook_size", "embedding_dim", "hidden_dim")
    for name in (*sizes, "residual_dim", "num_residual_layers"):
        value, least = settings[name], 0 if name == "num_residual_layers" else 1
        if type(value) is not int or value < least:
            raise InputError(f"{name} must be an integer of at least {least}, got {value!r}")
    image_size, factor = settings["image_size"], 2 ** settings["num_downsampling"]
    if image_size % factor:
        raise InputError(
            f"image_size must be a multiple of {factor} for "
            f"num_downsampling={settings['num_downsampling']}, got {image_size}"
        )
    for name, bound in (("commitment_cost", math.inf), ("decay", 1), ("restart_below", 1)):
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < bound:
            limit = "finite and >= 0" if bound == math.inf else f">= 0 and < {bound}"
            raise InputError(f"{name} must be {limit}, got {value!r}")
    epsilon = settings["epsilon"]
    if not isinstance(epsilon, float) or not 0 < epsilon < math.inf:
        raise InputError(f"epsilon must be finite and > 0, got {epsilon!r}")
    if type(settings["start_from_data"]) is not bool:
        raise InputError(
            f"start_from_data must be true or false, got {settings['start_from_data']!r}"
        )
    if type(settings["seed"]) is not int:
        raise InputError(f"seed must be an integer, got {settings['seed']!r}")
