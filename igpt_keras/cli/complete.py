"""`igpt complete`: image files in, completed images out."""

import pathlib
from collections.abc import Sequence

import click
import numpy as np
from PIL import Image

import igpt_keras
from igpt_keras.atomic import atomic_path
from igpt_keras.cli.options import output_option, overwrite_option, seed_option
from igpt_keras.data.images import read_image
from igpt_keras.pictures import contact_sheet, keep_top, save_png

SHEET = "contact-sheet.png"


def completion_options(command):
    """What `igpt complete` and `igpt client complete` have in common."""
    for option in (
        overwrite_option(),
        seed_option("Of what is sampled."),
        click.option("--top-p", default=1.0, show_default=True),
        click.option("--top-k", default=0, show_default=True, help="0 for all colours."),
        click.option("--temperature", default=1.0, show_default=True, help="0 is greedy."),
        click.option("--num", default=4, show_default=True, help="Completions of each image."),
        click.option("--keep-rows", type=int, required=True, help="Rows of the model's input."),
        output_option(),
        click.argument("images", nargs=-1, required=True, type=click.Path(path_type=pathlib.Path)),
    ):
        command = option(command)
    return command


@click.command()
@click.option("--model", required=True, help="As `igpt convert` reads it.")
@completion_options
def complete(model, images, output, keep_rows, num, temperature, top_k, top_p, seed, overwrite):
    """Keep the first rows of IMAGES and let a model sample the rest.

    IMAGES (PNG, JPEG, GIF or BMP, any size) are cropped to a square and averaged down
    to the model's input.
    """
    with atomic_path(output, overwrite, marker=SHEET) as partial:
        loaded = igpt_keras.load(model)
        originals = np.stack([read_image(path, loaded.config.image_size) for path in images])
        completions = igpt_keras.complete(
            loaded, None, originals, keep_rows, num, temperature, top_k, top_p, seed
        )
        write_completions(partial, images, originals, completions.images, keep_rows)
    print(f"wrote {len(images) * num} completions and {SHEET} to {output}")


def write_completions(
    folder: pathlib.Path,
    paths: Sequence[pathlib.Path],
    originals: np.ndarray,
    completed: np.ndarray,
    keep_rows: int,
) -> None:
    """Writes `folder` with a PNG for each completion and a contact sheet of all.

    Args:
        folder: is created.
        paths: B image files; their names go into those of the PNGs.
        originals: uint8 [B, R, R, 3], the images as the model saw them.
        completed: uint8 [B, N, R, R, 3].
        keep_rows: rows kept.
    """
    folder.mkdir()
    rows = []
    for index, (path, original, images) in enumerate(zip(paths, originals, completed, strict=True)):
        for number, image in enumerate(images):
            name = f"{index:03d}-{path.stem}-{number:02d}.png"
            save_png(Image.fromarray(image), folder / name)
        rows.append([original, keep_top(original, keep_rows), *images])
    cell = max(96, 4 * originals.shape[1])
    save_png(contact_sheet(rows, ["original", "kept", "completions"], cell), folder / SHEET)
