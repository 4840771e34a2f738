"""`igpt tokenizer fit palette`: the colors of training images."""

import pathlib
from typing import TYPE_CHECKING

import click

from igpt_keras import paper
from igpt_keras.cli.command import command, option
from igpt_keras.cli.options import COUNT, IMAGE_DATA, output, overwrite, seed
from igpt_keras.cli.training import print_bad_images
from igpt_keras.errors import InputError
from igpt_keras.stages import stage
from igpt_keras.wording import plural

if TYPE_CHECKING:
    from igpt_keras.runs.options import DataOptions


@command(
    IMAGE_DATA,
    output("File to write the palette to, ending in .npy."),
    option(
        "--image-size",
        type=COUNT,
        default=paper.IMAGE_SIZES[0],
        help="Side in pixels to which images are scaled down, as for the model.",
    ),
    option(
        "--num-colors",
        type=COUNT,
        default=paper.PALETTE_SIZE,
        help="Number of colors, the vocabulary size of the model.",
    ),
    option(
        "--max-images",
        type=COUNT,
        default=10_000,
        help="Maximum number of training images to read; more are sampled at random.",
    ),
    option(
        "--max-pixels",
        type=COUNT,
        default=250_000,
        help="Maximum number of pixels to fit to; more are sampled at random.",
    ),
    seed("Random seed for choosing images and for k-means."),
    overwrite("Replace an existing output file."),
)
def palette(
    data: "DataOptions",
    output: pathlib.Path,
    image_size: int,
    num_colors: int,
    max_images: int,
    max_pixels: int,
    seed: int,
    overwrite: bool,
) -> None:
    """Fit a palette to the pixels of training images by k-means.

    A mixture of sources contributes images in proportion to its weights.
    """
    from igpt_keras.atomic import check_replaceable
    from igpt_keras.evaluation.reconstructions import Reconstructions
    from igpt_keras.runs.tokenizers import SUFFIX, training_images
    from igpt_keras.tokenizers.color_palette import ColorPalette

    if output.suffix != SUFFIX:
        raise InputError(f"--output must end in {SUFFIX}, got {output}")
    check_replaceable(output, overwrite)
    images = training_images(data, image_size, max_images, seed)
    with stage(f"fitting a palette to {plural(len(images), 'image')}"):
        fitted = ColorPalette.fit(images, num_colors, seed, max_pixels)
    fitted.save(output, overwrite)
    print_bad_images(data)
    colors, count = plural(num_colors, "color"), plural(len(images), "image")
    click.echo(f"Fitted {colors} to {count}; {Reconstructions.of(fitted, images).error_text()}")
    click.echo(f"Wrote {output}")
