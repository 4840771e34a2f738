"""`igpt sample`: images from nothing."""

import math
import pathlib

import click
import numpy as np
from PIL import Image

import igpt_keras
from igpt_keras.atomic import atomic_path
from igpt_keras.cli.command import command, option, plural
from igpt_keras.cli.complete import (
    ENTROPY,
    MODEL,
    SAMPLING,
    SHEET,
    cell_of,
    complete_in_groups,
    likelihoods,
    read_draft,
    say_likelihoods,
    write_likelihoods,
)
from igpt_keras.cli.options import COUNT
from igpt_keras.pictures import color_scale, contact_sheet, heat_map, save_png, stacked
from igpt_keras.sampling.samplers import Categorical

NUM_SAMPLES = option("--num-samples", type=COUNT, default=16, help="Number of images to sample.")


@command(
    NUM_SAMPLES,
    *SAMPLING,
    *MODEL,
)
def sample(
    model,
    draft,
    output,
    num_samples,
    temperature,
    top_k,
    top_p,
    seed,
    num_steps,
    entropy,
    progress,
    overwrite,
):
    """Sample new images.

    Writes the images, a contact sheet of all of them, and their log-likelihoods.
    """
    with atomic_path(output, overwrite, marker=SHEET) as partial:
        loaded = igpt_keras.load(model)
        size = loaded.config.image_size
        settings = {
            "keep_rows": 0,
            "sampler": Categorical(temperature, top_k, top_p),
            "draft": draft and read_draft(draft),
            "num_steps": num_steps,
        }
        blank = np.zeros((num_samples, size, size, 3), np.uint8)
        samples = complete_in_groups(loaded, blank, seed, settings, progress)
        names = write_samples(partial, samples.images[:, 0])
        records = likelihoods(samples, [[name] for name in names], size * size)
        write_likelihoods(partial, records)
        if entropy:
            largest = max(float(samples.entropy.max()), 1e-6)
            sheet = square_sheet(heat_map(samples.entropy[:, 0], largest))
            save_png(stacked([sheet, color_scale(largest, "nats")]), partial / ENTROPY)
    say_likelihoods(records)
    click.echo(f"Wrote {plural(num_samples, 'sample')} and {SHEET} to {output}")


def write_samples(folder: pathlib.Path, images: np.ndarray) -> list[str]:
    """Writes `folder` with a PNG for each of uint8 [N, R, R, 3] and a contact sheet of all.

    Returns: the names of the PNGs.
    """
    folder.mkdir()
    names = [f"{number:03d}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        save_png(Image.fromarray(image), folder / name)
    save_png(square_sheet(images), folder / SHEET)
    return names


def square_sheet(images: np.ndarray) -> Image.Image:
    """A contact sheet of images uint8 [N, R, R, 3] about as wide as high."""
    columns = math.ceil(math.sqrt(len(images)))
    return contact_sheet(
        [images[start : start + columns] for start in range(0, len(images), columns)],
        cell_size=cell_of(images),
    )
