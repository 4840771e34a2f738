"""`igpt complete`: image files in, completed images out."""

import pathlib
from typing import Any

import click

from igpt_keras.cli.command import command, command_line, option
from igpt_keras.cli.options import (
    COUNT,
    IMAGES,
    MODEL_PRECISION,
    PATH,
    SHIPPED_MODEL,
    output,
    overwrite,
    seed,
)
from igpt_keras.cli.sampler_options import SAMPLER, SamplerCommand
from igpt_keras.cli.signals import ending_on_sigterm
from igpt_keras.sampling.samplers import Sampler
from igpt_keras.wording import plural

SAMPLING = (
    option(
        "--scale",
        type=COUNT,
        default=1,
        help="Factor by which to enlarge each side of the PNG of an image, without smoothing.",
    ),
    seed("Random seed for sampling."),
    overwrite(),
)
NUM_COMPLETIONS = option(
    "--num-completions", type=COUNT, default=4, help="Number of completions of each image."
)


def label_option(help: str) -> click.Option:
    """Returns --label, which several images take in turn."""
    return option(
        "--label",
        "labels",
        multiple=True,
        metavar="CLASS",
        show_default="images of any class",
        help=f"{help} Give several for images that take them in turn.",
    )


CLASSES = (
    label_option("Class to sample, by name or number, for a class-conditional model."),
    option(
        "--guidance-scale",
        type=click.FloatRange(min=0),
        default=1.0,
        help="How much the class counts: above 1, images are more typical of it, at twice the "
        "computation.",
    ),
)
MODEL = (
    option(
        "--model",
        default=SHIPPED_MODEL,
        metavar="PATH",
        help="Model, in any format that `igpt convert` reads, or one that comes with the package.",
    ),
    MODEL_PRECISION,
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
    *CLASSES,
    option("--entropy", is_flag=True, help="Draw the entropy of sampled pixels as entropy.png."),
    option(
        "--progress",
        type=click.Choice(["auto", "quiet"]),
        default="auto",
        help="How to show progress: auto is a bar at a terminal.",
    ),
)


@command(
    IMAGES,
    option(
        "--keep-rows",
        type=int,
        show_default="half of them",
        help="Number of rows of the model's input to keep.",
    ),
    option(
        "--mask",
        type=PATH,
        metavar="FILE",
        help="Image that is white where pixels are to be sampled, instead of --keep-rows. It is "
        "cropped like IMAGES.",
    ),
    NUM_COMPLETIONS,
    SAMPLER,
    output(default="completed"),
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
    precision: str | None,
    draft: str | None,
    num_steps: int | None,
    labels: tuple[str, ...],
    guidance_scale: float,
    scale: int,
    seed: int,
    entropy: bool,
    progress: str,
    overwrite: bool,
) -> None:
    """Complete images of which some pixels are known.

    IMAGES, of any format and size, are cropped to a square and scaled down to the model's input.
    The model samples the pixels that are not kept. Writes the completions, a contact sheet of all
    of them, and their log-likelihoods.
    """
    from igpt_keras.runs import Complete

    settings = Complete.Settings(
        model=model,
        keep_rows=keep_rows,
        mask=mask,
        num_completions=num_completions,
        sampler=sampler,
        precision=precision,
        draft=draft,
        num_steps=num_steps,
        labels=labels,
        guidance_scale=guidance_scale,
        entropy=entropy,
        scale=scale,
        seed=seed,
    )
    run = Complete.open(settings, images, output, overwrite=overwrite, command=command_line())
    generate(run, progress, "completion")


def generate(run: Any, progress: str, noun: str) -> None:
    """Runs a `Complete` or a `Sample`, and prints the log-likelihoods and what it wrote."""
    from igpt_keras.cli.stages import StageBars
    from igpt_keras.pictures.completions import SHEET_FILE

    with ending_on_sigterm(), StageBars() as bars:
        result = run.run([bars] if progress == "auto" and bars.is_shown else [])
    records = result.metrics["completions"]
    for record in records:
        parts = [record["file"], *([record["label"]] if "label" in record else [])]
        for what, name, per_pixel in (
            ("sampled tokens", "log_likelihood", "bits_per_sampled_pixel"),
            ("all tokens", "total_log_likelihood", "bits_per_pixel"),
        ):
            if record.get(per_pixel) is not None:
                parts.append(f"{what} {record[name]:.2f} nats ({record[per_pixel]:.3f} bits/pixel)")
        click.echo("  ".join(parts))
    click.echo(f"Wrote {plural(len(records), noun)} and {SHEET_FILE} to {run.output}")
