"""`igpt tokenizer show`: what a tokenizer does to images."""

import pathlib
from typing import TYPE_CHECKING

import click

from igpt_keras import paper
from igpt_keras.cli.command import argument, command, option
from igpt_keras.cli.options import COUNT, PATH, output, overwrite, seed
from igpt_keras.wording import plural

if TYPE_CHECKING:
    import numpy as np


@command(
    argument("tokenizer"),
    argument("images", nargs=-1, type=PATH),
    option("--data", metavar="SOURCE", help="Source to show random images of."),
    option("--data-dir", metavar="DIR", help="Folder of TensorFlow Datasets' data sets."),
    option("--num-images", type=COUNT, default=8, help="Number of images to take from the source."),
    seed("Random seed for choosing the images."),
    option(
        "--image-size",
        type=COUNT,
        show_default=f"the tokenizer's or the model's, or {paper.IMAGE_SIZES[0]}",
        help="Side in pixels to which images are scaled down, for a tokenizer of any size.",
    ),
    output("PNG file to write to."),
    overwrite("Replace an existing output file."),
)
def show(
    tokenizer: str,
    images: tuple[pathlib.Path, ...],
    data: str | None,
    data_dir: str | None,
    num_images: int,
    seed: int,
    image_size: int | None,
    output: pathlib.Path,
    overwrite: bool,
) -> None:
    """Draw the tokens of a tokenizer, and what it does to images.

    TOKENIZER is rgb, a .npy palette, the folder of a tokenizer, or a model with its own. IMAGES,
    or those of a source, are shown as they are and as their tokens describe them, with their root
    mean square error in levels 0…255 and their peak signal-to-noise ratio. The share of tokens
    that the images use, and the perplexity of their distribution, are those of the shown images.
    """
    from igpt_keras.atomic import check_replaceable
    from igpt_keras.evaluation.reconstructions import Reconstructions, pictures_of_tokens
    from igpt_keras.pictures.contact_sheets import save_png, stacked, swatches
    from igpt_keras.runs.tokenizers import read_tokenizer

    if images and data:
        raise click.UsageError("give IMAGES or --data, not both")
    check_replaceable(output, overwrite)
    shown = read_tokenizer(tokenizer, image_size)
    size = shown.image_size
    assert size is not None
    drawn = pictures_of_tokens(shown)
    title = message = plural(shown.vocabulary_size, "token")
    sheets = []
    if images or data:
        pixels, names = _images(images, data, data_dir, size, num_images, seed)
        reconstructions = Reconstructions.of(shown, pixels)
        sheets = [reconstructions.sheet(names)]
        title = reconstructions.usage_text()
        message += f", {plural(len(pixels), 'image')}; {reconstructions}"
    if len(drawn) < shown.vocabulary_size:
        title += f"; drawn are the first {len(drawn):,}"
    save_png(stacked([swatches(drawn, title), *sheets]), output, overwrite)
    click.echo(f"Wrote {output}: {message}")


def _images(
    paths: tuple[pathlib.Path, ...],
    data: str | None,
    data_dir: str | None,
    image_size: int,
    num_images: int,
    seed: int,
) -> "tuple[np.ndarray, list[str]]":
    """Returns the images to show, uint8 [N, R, R, 3], and the names of files."""
    from igpt_keras.data.data_set import open_data
    from igpt_keras.data.file_splits import FileSplit
    from igpt_keras.data.tokenization import read_images

    if data is None:
        return read_images(FileSplit("IMAGES", paths), image_size).images, [p.name for p in paths]
    data_set = open_data(data, data_dir=data_dir)
    split = data_set.test or data_set.validation or data_set.train
    return read_images(split, image_size, limit=num_images, seed=seed).images, []
