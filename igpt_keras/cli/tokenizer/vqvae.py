"""`igpt tokenizer fit vqvae`: images in, a learned tokenizer out."""

import pathlib
from typing import TYPE_CHECKING

import click

from igpt_keras.cli.callbacks import CALLBACKS
from igpt_keras.cli.command import OptionGroup, command, command_line, option
from igpt_keras.cli.options import (
    COUNT,
    IMAGE_DATA,
    POSITIVE,
    PROGRESS,
    TRAINING,
    output,
    overwrite,
    seed,
)
from igpt_keras.cli.resume import check_nothing_changes, resume_option
from igpt_keras.cli.training import print_bad_images, print_result, train

if TYPE_CHECKING:
    import keras

    from igpt_keras.runs.fit_vqvae import Settings
    from igpt_keras.runs.options import DataOptions

# The loss itself is in no unit, unlike that of the models.
METRICS = ("reconstruction_loss", "used_codes", "val_reconstruction_loss")

# Their defaults are those of `igpt_keras.runs.fit_vqvae.Settings`.
SETTINGS = (
    option("--image-size", type=COUNT, default=96, help="Side of the images in pixels."),
    option(
        "--num-downsampling",
        type=COUNT,
        show_default="the smallest with at most 48×48 tokens",
        help="Number of times that the encoder halves the sides of an image.",
    ),
    option(
        "--codebook-size",
        type=COUNT,
        default=512,
        help="Number of codes, the vocabulary size of a model.",
    ),
    option("--embedding-dim", type=COUNT, default=64, help="Length of a code."),
    option("--hidden-dim", type=COUNT, default=32, help="Number of channels."),
    option(
        "--residual-dim",
        type=COUNT,
        default=32,
        help="Number of channels inside the residual layers.",
    ),
    option(
        "--num-residual-layers",
        type=click.IntRange(min=0),
        default=2,
        help="Number of residual layers at each resolution.",
    ),
    option(
        "--commitment-cost",
        type=click.FloatRange(min=0),
        default=0.25,
        help="Factor of the loss that draws the encoder's output to the codes.",
    ),
    option(
        "--decay",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.99,
        help="Share of the codes' moving averages that a step keeps.",
    ),
    option("--epochs", type=POSITIVE, help="Number of passes over the images, instead of --steps."),
    option(
        "--steps",
        type=COUNT,
        show_default="1500",
        help="Number of training steps, instead of --epochs.",
    ),
    option("--batch-size", type=COUNT, default=8, help="Number of images per training step."),
    option(
        "--learning-rate",
        type=POSITIVE,
        default=0.003,
        help="Peak learning rate, which a warm-up reaches and from which it decays to 0.",
    ),
    *TRAINING,
    seed(),
)


@command(
    resume_option("tokenizer fit vqvae"),
    IMAGE_DATA,
    output("Folder of the run, which becomes that of the tokenizer."),
    OptionGroup("settings", SETTINGS),
    CALLBACKS,
    PROGRESS,
    overwrite("Replace an existing run."),
)
@click.pass_context
def vqvae(
    context: click.Context,
    resume: pathlib.Path | None,
    data: "DataOptions",
    callbacks: "list[keras.callbacks.Callback]",
    progress: str,
    output: pathlib.Path,
    overwrite: bool,
    settings: dict,
) -> None:
    """Train a VQ-VAE: fewer tokens than an image has pixels.

    Only --data and --output are needed. Writes the folder of the run, which igpt pretrain
    --tokenizer and igpt tokenizer show take: the tokenizer, history.jsonl and TensorBoard events,
    reconstructions of held-out images, and result.json with their error and the usage of codes.
    SIGTERM and Ctrl-C end the training after the current step and save a checkpoint; --resume
    continues from the last checkpoint, also after a crash.
    """
    from igpt_keras.runs import FitVQVAE

    if resume is not None:
        check_nothing_changes(context)
    run = FitVQVAE.open(
        FitVQVAE.Settings(**settings),
        data,
        output,
        resume=resume is not None,
        overwrite=overwrite,
        command=command_line(),
    )
    if progress != "quiet" and not run.finished:
        print_result(_describe(run.settings), progress)
    result = train(run, METRICS, progress, callbacks)
    if result is not None:
        print_bad_images(data)
        metrics = result.metrics
        print_result(
            f"RMSE {metrics['rmse']:.2f} of 255, PSNR {metrics['psnr']:.1f} dB; "
            f"{metrics['used_share']:.0%} of the codes used, perplexity "
            f"{metrics['perplexity']:.1f}. Wrote {output}",
            progress,
        )


def _describe(settings: "Settings") -> str:
    """Returns in a line what is trained."""
    size, side = settings.image_size, settings.grid_size
    parts = [
        f"{size}×{size} pixels as {side}×{side} tokens",
        f"{settings.codebook_size:,} codes of length {settings.embedding_dim}",
        f"learning rate {settings.learning_rate:g}",
    ]
    return ", ".join(parts)
