"""Reports the speed of training steps, with and without recomputation.

    KERAS_BACKEND=jax python measure.py

Prints a row for each model as soon as it is measured: images/s, TFLOP/s and the share of the
card's peak. FLOPs are those of the model (attention in full, recomputation not counted).
"""

import argparse

import jax
import keras
import numpy as np
from train import add_model_options, attention_is_fused, images_per_second, model_config

import igpt_keras
from igpt_keras.training.recipes import adam

# Dense bfloat16 TFLOP/s, as published.
PEAKS = {"A100": 312, "H100": 989, "H200": 989}
# Images in a batch whose activations fit into 80 GB without recomputation.
PRESETS = {"image_gpt_small": 64, "image_gpt_medium": 16}


def flops_per_image(config: igpt_keras.ImageGPTConfig) -> int:
    """Of a training step: three forward passes, of 2 FLOPs a weight and 4 n d for attention."""
    d, n = config.hidden_dim, config.sequence_length
    forward = config.num_layers * (24 * d * d + 4 * n * d) + 2 * d * config.vocabulary_size
    return 3 * n * forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_model_options(parser)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--presets", nargs="*", choices=PRESETS, default=tuple(PRESETS))
    arguments = parser.parse_args()

    own = model_config(arguments, arguments.image_size)
    models = {"example": (own, arguments.batch_size)}
    for name in arguments.presets:
        models[name] = (igpt_keras.ImageGPTConfig.preset(name), PRESETS[name])
    device = jax.devices()[0].device_kind
    peak = next((PEAKS[name] for name in PEAKS if name in device), None)
    print(f"{device}, bfloat16 peak {peak or '?'} TFLOP/s\n")
    print("| model | parameters | batch | fused attention | remat | images/s | TFLOP/s | of peak |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, (config, batch_size) in models.items():
        shape = (4 * batch_size, config.sequence_length)
        tokens = np.random.default_rng(0).integers(0, 512, shape).astype(np.uint16)
        fused = "yes" if attention_is_fused(config) else "no"
        for remat in (False, True):
            keras.backend.clear_session()
            model = igpt_keras.ImageGPT(config, arguments.objective, dtype="mixed_bfloat16")
            model.compile(adam(1e-4), remat=remat)
            speed = images_per_second(model, tokens, batch_size)
            rate = speed * flops_per_image(config) / 1e12
            share = f"{rate / peak:.0%}" if peak else "?"
            size = f"{config.parameter_count(arguments.objective) / 1e6:.1f}M"
            row = (name, size, batch_size, fused, "yes" if remat else "no", f"{speed:,.0f}")
            print(f"| {' | '.join(map(str, row))} | {rate:.3g} | {share} |", flush=True)


if __name__ == "__main__":
    main()
