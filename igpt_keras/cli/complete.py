"""`igpt complete`: pictures in, completed pictures out."""

import pathlib

import click
import numpy as np
from PIL import Image

import igpt_keras
from igpt_keras.atomic import atomic_path
from igpt_keras.data.images import read_image
from igpt_keras.pictures import contact_sheet, keep_top, save_png


@click.command()
@click.argument("model", type=click.Path(path_type=pathlib.Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=pathlib.Path))
@click.option("--output", required=True, type=click.Path(path_type=pathlib.Path), help="Folder.")
@click.option("--keep-rows", type=int, help="Rows of the model's input kept.  [default: half]")
@click.option("--num", default=4, show_default=True, help="Completions of each image.")
@click.option("--temperature", default=1.0, show_default=True, help="0 is greedy.")
@click.option("--top-k", default=0, show_default=True, help="0 for all colours.")
@click.option("--top-p", default=1.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace an existing output folder.")
def complete(model, images, output, keep_rows, num, temperature, top_k, top_p, seed, overwrite):
    """Keep the first rows of IMAGES and let MODEL sample the rest.

    MODEL is a model folder, a Hugging Face folder or an original checkpoint prefix.
    IMAGES (PNG, JPEG, GIF, BMP; any size) are cropped to a square and resized to
    the model's input.
    """
    with atomic_path(output, overwrite) as partial:
        loaded = igpt_keras.load(model)
        size = loaded.config.image_size
        keep_rows = size // 2 if keep_rows is None else keep_rows
        originals = np.stack([read_image(path, size) for path in images])
        completed = igpt_keras.complete(
            loaded, None, originals, keep_rows, num, temperature, top_k, top_p, seed
        ).images
        partial.mkdir()
        for index, (path, completions) in enumerate(zip(images, completed, strict=True)):
            for number, completion in enumerate(completions):
                name = f"{index:03d}-{path.stem}-{number:02d}.png"
                save_png(Image.fromarray(completion), partial / name)
        rows = [
            [original, keep_top(original, keep_rows), *completions]
            for original, completions in zip(originals, completed, strict=True)
        ]
        sheet = contact_sheet(rows, ["original", "kept", "completions"], cell=max(96, 4 * size))
        save_png(sheet, partial / "contact-sheet.png")
    print(f"wrote {len(images) * num} completions and contact-sheet.png to {output}")
