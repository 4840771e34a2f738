"""`igpt pretrain`: images in, a generative model out."""

import pathlib

import click

from igpt_keras.atomic import check_replaceable
from igpt_keras.cli.options import (
    batch_size_option,
    command_line,
    data_options,
    output_option,
    overwrite_option,
    recording_options,
    seed_option,
    training_options,
)
from igpt_keras.cli.resume import (
    check_nothing_changes,
    exit_interrupted,
    resume_option,
    say_if_finished,
)
from igpt_keras.network.config import OBJECTIVES, PRESETS
from igpt_keras.runs.folder import RUN_FILE
from igpt_keras.runs.options import DataOptions, TrainingOptions
from igpt_keras.runs.pretrain import KIND, Images, Run, Settings, find_palette
from igpt_keras.training.callbacks.checkpoint_manager import Interrupted
from igpt_keras.training.strategies import check_batch_size, is_chief, make_strategy


@click.command()
@resume_option(KIND)
@data_options
@output_option("Folder of the run.")
@click.option(
    "--objective", type=click.Choice(OBJECTIVES), default=Settings.objective, show_default=True
)
@click.option("--image-size", type=int, help="Side of the model's input.  [default: the preset's]")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="A model of the paper.")
@click.option("--num-layers", type=int, help="Instead of --preset.")
@click.option("--hidden-dim", type=int, help="Instead of --preset.")
@click.option("--num-heads", type=int, help="Instead of --preset.")
@click.option(
    "palette", "--tokenizer", help="A .npy palette or a model that has one.  [default: fit one]"
)
@click.option(
    "--num-colors",
    default=Settings.num_colors,
    show_default=True,
    help="Of a palette fitted to the images.",
)
@click.option("--epochs", type=float, help="Passes over the images; or --steps.")
@click.option("--steps", type=int, help="Batches to train on; or --epochs.")
@batch_size_option()
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=Settings.learning_rate,
    show_default=True,
    help="After the warm-up.",
)
@click.option(
    "--mask-probability",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=Settings.mask_probability,
    show_default=True,
    help="For BERT.",
)
@click.option(
    "--snapshots",
    default=Settings.snapshots,
    show_default=True,
    help="Models kept: the last, and those after 1/2, 1/4, … of the steps; besides, the best.",
)
@recording_options
@training_options
@seed_option()
@overwrite_option("Replace an earlier run.")
@click.pass_context
def pretrain(
    context: click.Context,
    resume: pathlib.Path | None,
    data: DataOptions,
    training: TrainingOptions,
    output: pathlib.Path,
    overwrite: bool,
    **settings,
):
    """Train an Image GPT on images, without labels.

    Writes the run's folder: the model, snapshots on the way, history.jsonl and TensorBoard's
    events, completions and samples, and result.json with the losses. SIGTERM or Ctrl-C end the
    training after a step and save it; --resume goes on from there, or from before a crash.
    """
    settings = Settings(**settings)
    if resume is not None:
        check_nothing_changes(context)
        if say_if_finished(output, training):
            return
    strategy = make_strategy(training.strategy)
    check_batch_size(strategy, settings.batch_size)
    if resume is not None:
        run = Run.resume(Images.open(data), settings, training, output)
    else:
        writes = is_chief(strategy)
        if writes:
            check_replaceable(output, overwrite, marker=RUN_FILE)
        images = Images.open(data)
        palette = find_palette(images, settings)
        run = Run(command_line(), images, settings, training, output, palette)
        if writes:
            run.create(overwrite)
    try:
        loss = run.finish(strategy)
    except Interrupted as interrupted:
        exit_interrupted(interrupted, KIND, output)
    if is_chief(strategy):
        data.report_bad_images()
        training.conclude(f"validation loss {loss:.4f} nats per pixel; wrote {output}")
