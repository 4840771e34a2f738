"""`igpt pretrain`: images in, a generative model out."""

import pathlib
from typing import TYPE_CHECKING

import click

from igpt_keras import paper
from igpt_keras.cli.callbacks import CALLBACKS
from igpt_keras.cli.command import OptionGroup, command, command_line, option
from igpt_keras.cli.options import (
    COUNT,
    DATA,
    MODEL_TRAINING,
    POSITIVE,
    PROGRESS,
    Names,
    output,
    overwrite,
    seed,
)
from igpt_keras.cli.resume import check_nothing_changes, resume_option
from igpt_keras.cli.training import print_bad_images, print_result, train
from igpt_keras.network import presets
from igpt_keras.network.initial_weights import INITIALIZERS
from igpt_keras.wording import plural

if TYPE_CHECKING:
    import keras

    from igpt_keras.network.config import ImageGPTConfig
    from igpt_keras.runs.options import DataOptions
    from igpt_keras.runs.pretrain import Settings

MODEL_OPTIONS = (
    option(
        "--objective",
        type=click.Choice(["ar", "bert"]),
        default="ar",
        help="Training objective: autoregressive, or BERT's prediction of masked tokens.",
    ),
    option(
        "--image-size",
        type=COUNT,
        show_default="that of the tokenizer, if it has one, or the preset's",
        help="Side of the model's input in pixels.",
    ),
    option(
        "--preset",
        type=click.Choice(list(presets.PRESETS)),
        show_default=presets.DEFAULT_PRESET,
        help="Model size: nano and tiny for a few CPU cores, the others from the paper.",
    ),
    option("--num-layers", type=COUNT, help="Number of layers, instead of the preset's."),
    option("--hidden-dim", type=COUNT, help="Width of the model, instead of the preset's."),
    option("--num-heads", type=COUNT, help="Number of attention heads, instead of the preset's."),
    option(
        "--attention",
        default="dense",
        metavar="NAME",
        help="Which tokens attend to which: dense, strided or fixed (both sparse), or a plug-in's.",
    ),
    option(
        "--stride",
        type=COUNT,
        show_default="a row of the image",
        help="Length of a row of sparse attention, in tokens.",
    ),
    option(
        "--summary",
        type=COUNT,
        show_default="an eighth of the stride",
        help="Number of summary tokens in each row, for fixed attention.",
    ),
    option(
        "--attention-layers",
        type=Names(),
        metavar="NAME,…",
        show_default="local,column or local,summary",
        help="Parts of sparse attention that the layers take in turn: local, column, summary, "
        "or merged for both in one.",
    ),
    option(
        "--axial-positions",
        is_flag=True,
        help="Embed each position as the sum of its row and its column.",
    ),
    option(
        "--initializer",
        type=click.Choice(list(INITIALIZERS)),
        default="image_gpt",
        help="Scheme of the initial weights.",
    ),
    option(
        "--tokenizer",
        metavar="NAME",
        show_default="fit a palette",
        help="Tokenizer to use: rgb, with a token for each channel of each pixel; a .npy palette; "
        "the folder of a tokenizer; or a model that has one.",
    ),
    option(
        "--num-colors",
        type=COUNT,
        show_default="the preset's",
        help="Number of colors of the palette that is fitted to the images.",
    ),
)


@command(
    resume_option("pretrain"),
    DATA,
    output("Folder of the run."),
    OptionGroup(
        "settings",
        (
            *MODEL_OPTIONS,
            option(
                "--epochs",
                type=POSITIVE,
                show_default=f"{presets.EPOCHS}",
                help="Passes over the images, instead of --steps.",
            ),
            option("--steps", type=COUNT, help="Number of training steps, instead of --epochs."),
            option(
                "--batch-size",
                type=COUNT,
                show_default="the preset's",
                help="Number of images per training step.",
            ),
            option(
                "--learning-rate",
                type=POSITIVE,
                show_default="the paper's for the model nearest in width",
                help="Peak learning rate, reached after the warm-up.",
            ),
            option(
                "--warmup-steps",
                type=click.IntRange(min=0),
                show_default="one pass over the images, at most half of the steps",
                help="Number of steps of linear warm-up.",
            ),
            option(
                "--mask-probability",
                type=click.FloatRange(0, 1, min_open=True, max_open=True),
                default=paper.MASK_PROBABILITY,
                help="Probability of each token to be masked, for BERT.",
            ),
            option(
                "--class-conditional",
                is_flag=True,
                help="Condition the model on the classes of the images, for samples of a class.",
            ),
            option(
                "--label-dropout",
                type=click.FloatRange(0, 1, max_open=True),
                default=presets.LABEL_DROPOUT,
                help="Probability that training hides an image's label from a class-conditional "
                "model, which then models images of any class as well.",
            ),
            option(
                "--snapshots",
                type=COUNT,
                default=len(paper.SNAPSHOT_FRACTIONS),
                help="Number of models to keep: the last one and those at the steps nearest to "
                "1/2, 1/4, … of all. The best one is kept as well.",
            ),
            option(
                "--probe-data",
                metavar="SOURCE",
                help="Labeled images to follow the features by: a ridge probe is fitted to those "
                "of one layer at every evaluation, and its validation accuracy is logged.",
            ),
            option(
                "--probe-layer",
                type=click.IntRange(min=0),
                show_default="the middle one",
                help="Layer that --probe-data probes.",
            ),
            *MODEL_TRAINING,
            seed(),
        ),
    ),
    CALLBACKS,
    PROGRESS,
    overwrite("Replace an existing run."),
)
@click.pass_context
def pretrain(
    context: click.Context,
    resume: pathlib.Path | None,
    data: "DataOptions",
    callbacks: "list[keras.callbacks.Callback]",
    progress: str,
    output: pathlib.Path,
    overwrite: bool,
    settings: dict,
) -> None:
    """Train an Image GPT on images.

    Labels are read with --class-conditional and for --probe-data only. Only --data and --output are
    needed; the first line of output says what is trained by default. Writes the folder of the run:
    the model, snapshots on the way, history.jsonl and TensorBoard events, completions and samples,
    and result.json with the losses. SIGTERM and Ctrl-C end the training after the current step and
    save a checkpoint; --resume continues from the last checkpoint, also after a crash.
    """
    from igpt_keras.runs import Pretrain

    if resume is not None:
        check_nothing_changes(context)
    run = Pretrain.open(
        Pretrain.Settings(**settings),
        data,
        output,
        resume=resume is not None,
        overwrite=overwrite,
        command=command_line(),
    )
    if progress != "quiet" and not run.finished:
        print_result(describe(run.settings, run.memory.config), progress)
    shown = ("loss", "bits_per_pixel", "val_loss", "val_probe_accuracy")
    result = train(run, shown, progress, callbacks)
    if result is not None:
        print_bad_images(data)
        loss = result.metrics["validation_loss"]
        bits = result.metrics["validation_bits_per_dimension"]
        also = "" if bits is None else f", {bits:.4f} bits per dimension"
        print_result(f"Validation loss: {loss:.4f} nats per token{also}. Wrote {output}", progress)


def describe(settings: "Settings", config: "ImageGPTConfig") -> str:
    """Returns in a line what is trained, and how.

    Args:
        settings: Settings with a value for everything (`Settings.completed`), except for a
            learning rate that is searched.
        config: Sizes of the model.
    """
    sizes = {name: getattr(config, name) for name in ("num_layers", "hidden_dim", "num_heads")}
    named = (name for name, preset in presets.PRESETS.items() if sizes.items() <= preset.items())
    parts = [
        f"{next(named, 'model')} ({plural(config.num_layers, 'layer')} of width "
        f"{config.hidden_dim}, {plural(config.num_heads, 'head')})",
        *([] if config.attention == "dense" else [f"{config.attention} attention"]),
        config.describe_input(),
        *([] if settings.tokenizer is None else [f"tokenizer {settings.tokenizer}"]),
        f"{settings.epochs:g} epochs" if settings.steps is None else f"{settings.steps:,} steps",
        f"batches of {settings.batch_size}",
    ]
    if settings.learning_rate is not None:
        parts.append(f"learning rate {settings.learning_rate:g}")
    return ", ".join(parts)
