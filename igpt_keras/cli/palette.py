"""`igpt palette`: fit a palette to images, and look at what it does to them."""

import math
import pathlib
from typing import TYPE_CHECKING

import click

from igpt_keras import paper
from igpt_keras.cli import Group
from igpt_keras.cli.command import argument, command, option
from igpt_keras.cli.options import COUNT, DATA, PATH, output, overwrite, seed
from igpt_keras.cli.training import print_bad_images
from igpt_keras.errors import InputError
from igpt_keras.stages import stage
from igpt_keras.wording import plural

if TYPE_CHECKING:
    from igpt_keras.runs.options import DataOptions

IMAGES_IN_A_ROW = 8


@click.group(cls=Group)
def palette() -> None:
    """Fit a palette of colors to images, or show one."""


@command(
    DATA,
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
    within=palette,
)
def fit(
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
    click.echo(f"Fitted {colors} to {count}; {_error(fitted, images)}")
    click.echo(f"Wrote {output}")


@command(
    argument("palette_or_model", metavar="PALETTE"),
    argument("images", nargs=-1, type=PATH),
    option("--data", metavar="SOURCE", help="Source to show random images of."),
    option("--data-dir", metavar="DIR", help="Folder of TensorFlow Datasets' data sets."),
    option("--num-images", type=COUNT, default=8, help="Number of images to take from the source."),
    seed("Random seed for choosing the images."),
    option(
        "--image-size",
        type=COUNT,
        show_default=f"that of the model, or {paper.IMAGE_SIZES[0]}",
        help="Side in pixels to which images are scaled down.",
    ),
    output("PNG file to write to."),
    overwrite("Replace an existing output file."),
    within=palette,
)
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
) -> None:
    """Draw the colors of a palette, and what it does to images.

    PALETTE is a .npy file or a model with its palette. IMAGES, or those of a source, are shown
    before and after quantization, with their root mean square error in levels 0…255 and their
    peak signal-to-noise ratio.
    """
    from igpt_keras.atomic import check_replaceable
    from igpt_keras.data.data_set import open_data
    from igpt_keras.data.file_splits import FileSplit
    from igpt_keras.data.tokenization import read_images
    from igpt_keras.pictures.contact_sheets import save_png, stacked, swatches
    from igpt_keras.runs.tokenizers import read_tokenizer
    from igpt_keras.tokenizers.color_palette import ColorPalette

    if images and data:
        raise click.UsageError("give IMAGES or --data, not both")
    check_replaceable(output, overwrite)
    shown, model_size = read_tokenizer(palette_or_model)
    if not isinstance(shown, ColorPalette):
        raise InputError(f"{palette_or_model} has a {type(shown).__name__}, not a palette")
    size = image_size or model_size
    pictures = [swatches(shown.rgb)]
    message = f"Wrote {output}: {plural(shown.vocabulary_size, 'color')}"
    if images:
        pixels = read_images(FileSplit("IMAGES", images), size).images
        names = [path.name for path in images]
    elif data:
        data_set = open_data(data, data_dir=data_dir)
        split = data_set.test or data_set.validation or data_set.train
        pixels = read_images(split, size, limit=num_images, seed=seed).images
        names = [""] * len(pixels)
    if images or data:
        pictures.append(_before_and_after(shown, pixels, names))
        message += f", {plural(len(pixels), 'image')}; {_error(shown, pixels)}"
    save_png(stacked(pictures), output, overwrite)
    click.echo(message)


def _before_and_after(shown, images, names):
    """Returns a contact sheet: uint8 [N, R, R, 3], and below each what the palette makes of it."""
    from igpt_keras.pictures.contact_sheets import contact_sheet

    restored = shown.detokenize(shown.tokenize(images))
    errors = [f"RMSE {error:.1f} of 255" for error in shown.reconstruction_error(images)]
    rows, captions = [], []
    for start in range(0, len(images), IMAGES_IN_A_ROW):
        part = slice(start, start + IMAGES_IN_A_ROW)
        rows += [images[part], restored[part]]
        captions += [names[part], errors[part]]
    labels = ["before", "after"] * (len(rows) // 2)
    return contact_sheet(rows, title="Images in these colors", labels=labels, captions=captions)


def _error(shown, images) -> str:
    """Returns a description of the quantization error over all pixels of all images."""
    errors = shown.reconstruction_error(images)
    return _describe(math.sqrt((errors**2).mean()))


def _describe(error: float) -> str:
    """Returns a root mean square error in words, with the peak signal-to-noise ratio."""
    if error == 0:
        return "no error"
    return f"RMSE {error:.2f} of 255, PSNR {20 * math.log10(255 / error):.1f} dB"
