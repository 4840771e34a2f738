"""What it takes to train on ImageNet, from its files to a model: storage, preparation, days, cost.

    python benchmarks/plan.py
    python benchmarks/plan.py --images 100000000 --accelerator A100 --utilization 0.3

Prints two Markdown tables. The first is measured, in about a minute: images that a processor
core makes into tokens in a second. They are crops of 500×375 pixels, about the size of ImageNet's
images, of the photographs that come with scikit-learn. The second is worked out from it and from
the formulas of `benchmarks/scaling.py`.
"""

import argparse
import dataclasses
import pathlib
import tempfile
import time

import numpy as np
from PIL import Image
from scaling import (
    ACCELERATORS,
    DEVICES_OF_A_HOST,
    SHORT_NAMES,
    choose_strategy,
    step_seconds,
    table,
)
from sklearn.datasets import load_sample_images

import igpt_keras
from igpt_keras import paper
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.tokenizers import ImageTokenizer

IMAGENET = 1_281_167
WIDTH, HEIGHT = 500, 375
NUM_FILES = 100
# Token grids by image size: one token for each pixel, and a VQ-VAE.
GRIDS = {32: 32, 48: 48, 64: 64, 96: 48}
NAMES = {**{size: f"{size}²" for size in GRIDS}, 96: "96², learned"}


def write_crops(folder: pathlib.Path) -> None:
    """Writes JPEG files."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    photographs = load_sample_images().images
    for index in range(NUM_FILES):
        photograph = photographs[index % len(photographs)]
        top, left = (
            int(generator.integers(0, full - part + 1))
            for full, part in zip(photograph.shape, (HEIGHT, WIDTH), strict=False)
        )
        crop = photograph[top : top + HEIGHT, left : left + WIDTH]
        Image.fromarray(crop).save(folder / f"{index:04d}.jpg", quality=90)


def tokenizer_of(image_size: int, grid: int) -> ImageTokenizer:
    """Returns the paper's palette, or a VQ-VAE as `igpt tokenizer fit vqvae` makes it."""
    if grid == image_size:
        colors = np.random.default_rng(0).uniform(-1, 1, (paper.PALETTE_SIZE, 3))
        return igpt_keras.ColorPalette(colors, image_size)
    return igpt_keras.VQVAE(image_size, num_downsampling=1)


def images_per_core_second() -> dict[int, float]:
    """Returns the images a second of processor time, by image size: read, decoded, tokenized."""
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        write_crops(pathlib.Path(folder) / "crops")
        split = igpt_keras.open_data(f"folder:{folder}/crops", train_on_validation=True).train
        for size, grid in GRIDS.items():
            tokenizer = tokenizer_of(size, grid)
            igpt_keras.data.tokenize(split, tokenizer)  # Traces and compiles.
            start = time.process_time()
            igpt_keras.data.tokenize(split, tokenizer)
            rates[size] = NUM_FILES / (time.process_time() - start)
    return rates


def rates_table(rates: dict[int, float]) -> str:
    """Images a second and core, and core hours for ImageNet."""
    lines = [
        [NAMES[size], f"{rate:,.0f}", f"{IMAGENET / rate / 3600:,.1f}"]
        for size, rate in rates.items()
    ]
    return table(["tokens", "images a second and core", "core hours for ImageNet"], lines)


def plan_table(
    rates: dict[int, float], num_images: int, name: str, steps: int, utilization: float
) -> str:
    """Storage, preparation and training by model and image size."""
    accelerator = ACCELERATORS[name]
    head = ["", "tokens, GB", "preparation, core hours", "strategy", "days", "dollars"]
    lines = []
    for preset in list(paper.PRESETS)[:3]:
        for size, grid in GRIDS.items():
            config = ImageGPTConfig.preset(preset, image_size=size)
            if grid != size:
                config = dataclasses.replace(config, grid=(grid, grid))
            strategy = choose_strategy(config, paper.BATCH_SIZE, accelerator, DEVICES_OF_A_HOST)
            assert strategy is not None
            seconds = steps * step_seconds(
                config, paper.BATCH_SIZE, strategy, accelerator, utilization
            )
            dollars = strategy.devices * accelerator.price * seconds / 3600
            lines.append(
                [
                    f"{SHORT_NAMES[preset]} {NAMES[size]}",
                    f"{num_images * config.sequence_length * 2 / 1e9:,.1f}",
                    f"{num_images / rates[size] / 3600:,.1f}",
                    str(strategy),
                    f"{seconds / 86400:,.1f}",
                    f"{dollars:,.0f}",
                ]
            )
    return table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=IMAGENET, help="in the data set")
    parser.add_argument("--accelerator", choices=ACCELERATORS, default="H100")
    parser.add_argument("--steps", type=int, default=paper.TRAINING_STEPS)
    parser.add_argument("--utilization", type=float, default=0.4, help="share of the peak")
    options = parser.parse_args()
    rates = images_per_core_second()
    print(rates_table(rates), end="\n\n")
    print(
        plan_table(rates, options.images, options.accelerator, options.steps, options.utilization)
    )


if __name__ == "__main__":
    main()
