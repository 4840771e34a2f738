"""`igpt complete`: image files in, completed images out."""

import pathlib

import click

from igpt_keras.cli.command import command, option, plural
from igpt_keras.cli.options import COUNT, IMAGES, PATH, output, overwrite, seed
from igpt_keras.cli.sampler_options import SAMPLER, SamplerCommand
from igpt_keras.errors import InputError
from igpt_keras.json_files import write_json
from igpt_keras.sampling.samplers import Sampler

SAMPLING = (output(), seed("Random seed for sampling."), overwrite())
NUM_COMPLETIONS = option(
    "--num-completions", type=COUNT, default=4, help="Number of completions of each image."
)
MODEL = (
    option(
        "--model",
        required=True,
        metavar="PATH",
        help="Model, in any format that `igpt convert` reads.",
    ),
    option(
        "--draft",
        metavar="PATH",
        help="Smaller model, or a file that `igpt draft` wrote, with which the same pixels are "
        "sampled in fewer passes.",
    ),
    option(
        "--num-steps",
        type=COUNT,
        show_default="16",
        help="Number of steps in which a BERT model fills the pixels in.",
    ),
    option("--entropy", is_flag=True, help="Draw the entropy of each pixel as entropy.png."),
    option(
        "--progress",
        type=click.Choice(["auto", "quiet"]),
        default="auto",
        help="How to show progress: auto is a bar at a terminal.",
    ),
)


@command(
    IMAGES,
    option("--keep-rows", type=int, help="Number of rows of the model's input to keep."),
    option(
        "--mask",
        type=PATH,
        metavar="FILE",
        help="Image that is white where pixels are to be sampled, instead of --keep-rows. It is "
        "cropped like IMAGES.",
    ),
    NUM_COMPLETIONS,
    SAMPLER,
    *SAMPLING,
    *MODEL,
    cls=SamplerCommand,
)
def complete(
    images: tuple[pathlib.Path, ...],
    model: str,
    output: pathlib.Path,
    keep_rows: int | None,
    mask: pathlib.Path | None,
    num_completions: int,
    sampler: Sampler,
    draft: str | None,
    num_steps: int | None,
    seed: int,
    entropy: bool,
    progress: str,
    overwrite: bool,
):
    """Complete images of which some pixels are known.

    IMAGES, of any format and size, are cropped to a square and scaled down to the model's input.
    The model samples the pixels that are not kept. Writes the completions, a contact sheet of all
    of them, and their log-likelihoods.
    """
    import numpy as np

    import igpt_keras
    from igpt_keras.atomic import atomic_path
    from igpt_keras.cli import completions as files
    from igpt_keras.data.image_decoding import read_image
    from igpt_keras.pictures import save_png

    if (keep_rows is None) == (mask is None):
        raise InputError("give either --keep-rows or --mask")
    with atomic_path(output, overwrite, marker=files.SHEET) as partial:
        loaded = igpt_keras.load(model)
        size = loaded.config.image_size
        originals = np.stack([read_image(path, size) for path in images])
        known = None if mask is None else files.read_mask(mask, size)
        settings = {
            "keep_rows": keep_rows,
            "known_mask": known,
            "num_completions": num_completions,
            "sampler": sampler,
            "draft": draft and files.read_draft(draft),
            "num_steps": num_steps,
        }
        completions = files.complete_in_groups(loaded, originals, seed, settings, progress)
        if known is None:
            known = np.broadcast_to(np.arange(size)[:, None] < keep_rows, (size, size))
        names = files.write_completions(partial, images, originals, completions.images, known)
        records = files.likelihoods(completions, names, int((~known).sum()))
        write_json(partial / files.LIKELIHOODS, records)
        if entropy:
            picture = files.entropy_sheet(completions, originals, known)
            save_png(picture, partial / files.ENTROPY)
    files.print_likelihoods(records)
    count = plural(len(records), "completion")
    click.echo(f"Wrote {count} and {files.SHEET} to {output}")
