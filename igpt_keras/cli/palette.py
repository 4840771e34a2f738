"""`igpt palette`: fit a palette to images, and look at what it does to them."""

import math
import pathlib

import click
import numpy as np

from igpt_keras import paper
from igpt_keras.atomic import check_replaceable
from igpt_keras.cli.options import (
    data_options,
    output_option,
    overwrite_option,
    seed_option,
)
from igpt_keras.data.data_set import open_data
from igpt_keras.data.splits import FileSplit
from igpt_keras.data.stream import read_images
from igpt_keras.errors import InputError
from igpt_keras.pictures import contact_sheet, save_png, stacked, swatches
from igpt_keras.runs.options import DataOptions
from igpt_keras.runs.tokenizers import (
    IMAGE_SIZE,
    MAX_IMAGES,
    SUFFIX,
    read_palette,
    training_images,
)
from igpt_keras.tokenizers.color_palette import ColorPalette


@click.group()
def palette():
    """Fit a palette of colors to images, or show one."""


@palette.command()
@data_options
@output_option("File to write to, ending in .npy.")
@click.option(
    "--image-size",
    type=click.IntRange(min=1),
    default=IMAGE_SIZE,
    show_default=True,
    help="Side in pixels to which images are averaged down, as for the model.",
)
@click.option(
    "--num-colors",
    type=click.IntRange(min=1),
    default=paper.PALETTE_SIZE,
    show_default=True,
    help="The model's vocabulary.",
)
@click.option(
    "--max-images",
    type=click.IntRange(min=1),
    default=MAX_IMAGES,
    show_default=True,
    help="Read at most so many training images, drawn at random.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=250_000,
    show_default=True,
    help="Fit to at most so many of their pixels, drawn at random.",
)
@seed_option("Of the images and of k-means.")
@overwrite_option("Replace an earlier output file.")
def fit(
    data: DataOptions,
    output: pathlib.Path,
    image_size: int,
    num_colors: int,
    max_images: int,
    max_pixels: int,
    seed: int,
    overwrite: bool,
):
    """Fit a palette to the pixels of training images by k-means.

    Sources that are mixed give images by their weights.
    """
    if output.suffix != SUFFIX:
        raise InputError(f"--output must end in {SUFFIX}, got {output}")
    check_replaceable(output, overwrite)
    images = training_images(data, data.open(), image_size, max_images, seed)
    fitted = ColorPalette.fit(images, num_colors, seed, max_pixels)
    fitted.save(output, overwrite)
    data.report_bad_images()
    click.echo(f"fitted {num_colors} colors to {len(images)} images; {losses(fitted, images)}")
    click.echo(f"wrote {output}")


@palette.command()
@click.argument("palette_or_model", metavar="PALETTE")
@click.argument("images", nargs=-1, type=click.Path(path_type=pathlib.Path))
@click.option("--data", metavar="SOURCE", help="Show images of this source, drawn at random.")
@click.option("--data-dir", metavar="DIR", help="Where TFDS keeps its sets.")
@click.option(
    "--num-images",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Images of the source.",
)
@seed_option("Of which images these are.")
@click.option(
    "--image-size",
    type=click.IntRange(min=1),
    help=f"Side in pixels.  [default: that of the model, or {IMAGE_SIZE}]",
)
@output_option("PNG file to write to.")
@overwrite_option("Replace an earlier output file.")
def show(
    palette_or_model: str,
    images: tuple[pathlib.Path, ...],
    data: str | None,
    data_dir: str | None,
    num_images: int,
    seed: int,
    image_size: int | None,
    output: pathlib.Path,
    overwrite: bool,
):
    """Draw the colors of PALETTE, a .npy file or a model with its palette.

    IMAGES, or those of a source, stand below, before and after quantization, with
    their root mean square error in levels 0…255 and their signal-to-noise ratio.
    """
    if images and data:
        raise click.UsageError("give IMAGES or --data, not both")
    check_replaceable(output, overwrite)
    shown, model_size = read_palette(palette_or_model)
    size = image_size or model_size
    pictures = [swatches(shown.rgb)]
    message = f"wrote {output}: {shown.vocabulary_size} colors"
    if images:
        pixels = read_images(FileSplit("IMAGES", images), size).images
    elif data:
        data_set = open_data(data, data_dir=data_dir)
        split = data_set.test or data_set.validation
        pixels = read_images(split, size, limit=num_images, seed=seed).images
    if images or data:
        pictures.append(before_and_after(shown, pixels))
        message += f", {len(pixels)} images; {losses(shown, pixels)}"
    save_png(stacked(pictures), output, overwrite)
    click.echo(message)


def before_and_after(shown: ColorPalette, images: np.ndarray):
    """Images uint8 [N, R, R, 3] beside what is left of them, a row each."""
    rows = list(zip(images, shown.detokenize(shown.tokenize(images)), strict=True))
    captions = [describe(error) for error in shown.reconstruction_error(images)]
    cell = images.shape[1] * max(1, round(128 / images.shape[1]))
    return contact_sheet(rows, ["before", "after"], cell, captions)


def losses(shown: ColorPalette, images: np.ndarray) -> str:
    """The error of quantization over all pixels of all images."""
    errors = np.array([shown.reconstruction_error(image) for image in images])
    return describe(np.sqrt(np.mean(errors**2)))


def describe(error: float) -> str:
    """A root mean square error, and as peak signal-to-noise ratio."""
    if error == 0:
        return "no error"
    return f"RMSE {error:.2f} of 255, PSNR {20 * math.log10(255 / error):.1f} dB"
