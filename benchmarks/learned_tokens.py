"""What training on 96×96 and 192×192 pixels takes with learned tokens, and without.

    python benchmarks/learned_tokens.py

Prints a Markdown table, worked out from the formulas of `benchmarks/scaling.py` in seconds. The
VQ-VAEs have the default sizes and 48×48 tokens.
"""

import dataclasses
import math

import keras
from scaling import SHORT_NAMES, activation_bytes, step_flops, table

from igpt_keras import VQVAE, paper
from igpt_keras.network.config import ImageGPTConfig

# Image sizes and numbers of encoder blocks.
SIZES = ((96, 1), (192, 2))


def encoder_flops(vqvae: VQVAE) -> int:
    """Of an image; a convolution has 2 for each weight of its kernel at each output position."""
    flops, side = 0, vqvae.image_size
    for variable in vqvae.encoder.trainable_variables:
        if variable.name == "kernel":
            # Only the downsampling kernels have even sides; they halve the image's.
            side //= 2 if variable.shape[0] % 2 == 0 else 1
            flops += 2 * math.prod(variable.shape) * side**2
    return flops


def nearest_flops(vqvae: VQVAE) -> int:
    """Of an image: products of its vectors with all codes."""
    return 2 * math.prod(vqvae.grid) * math.prod(keras.ops.shape(vqvae.quantizer.codebook))


def learned_table() -> str:
    """Learned tokens beside pixels, with dense attention and with strided."""
    head = ["", "tokens", "tokenizing an image", "step", "from pixels", "from pixels, strided"]
    head += ["activations of an image", "from pixels, strided"]
    lines = []
    for preset in list(paper.PRESETS)[:3]:
        for image_size, num_downsampling in SIZES:
            vqvae = VQVAE(image_size, num_downsampling)
            learned = ImageGPTConfig.preset(preset, image_size=image_size, grid=vqvae.grid)
            pixels = dataclasses.replace(learned, grid=None)
            strided = dataclasses.replace(pixels, attention="strided")
            steps = [step_flops(each, paper.BATCH_SIZE) for each in (learned, pixels, strided)]
            memory = [activation_bytes(each, 1, mixed=True) for each in (learned, strided)]
            lines.append(
                [
                    f"{SHORT_NAMES[preset]} {image_size}²",
                    f"{learned.sequence_length:,}",
                    f"{(encoder_flops(vqvae) + nearest_flops(vqvae)) / 1e9:.2f} G",
                    *(f"{flops / 1e12:,.0f} T" for flops in steps),
                    *(f"{size / 1e9:.2f}" for size in memory),
                ]
            )
    return table(head, lines)


if __name__ == "__main__":
    print(learned_table())
