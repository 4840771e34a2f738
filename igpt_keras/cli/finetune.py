"""`igpt finetune`: a pre-trained model learns to classify."""

import pathlib
from typing import Any

import click
from rich.console import Console
from rich.table import Table

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
from igpt_keras.runs.finetune import KIND, Material, Run, Settings
from igpt_keras.runs.folder import RUN_FILE
from igpt_keras.runs.options import DataOptions, TrainingOptions
from igpt_keras.runs.result import RESULT_FILE
from igpt_keras.saving import MODEL_FOLDER
from igpt_keras.training.callbacks.checkpoint_manager import Interrupted
from igpt_keras.training.strategies import is_chief, make_strategy


@click.command()
@click.argument("model")
@resume_option(KIND)
@data_options
@output_option("Folder of the run.")
@click.option(
    "--from-scratch", is_flag=True, help="Of MODEL take the sizes and the palette, not the weights."
)
@click.option(
    "--generative-weight",
    type=click.FloatRange(min=0),
    default=Settings.generative_weight,
    show_default=True,
    help="Factor of L_GEN beside L_CLF; 0 for L_CLF alone.",
)
@click.option("--layer", type=int, help="Whose features the class head reads.  [default: the last]")
@click.option("--epochs", type=click.IntRange(min=1), default=Settings.epochs, show_default=True)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=Settings.patience,
    show_default=True,
    help="Stop after so many epochs without a better validation accuracy.",
)
@batch_size_option()
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=Settings.learning_rate,
    show_default=True,
    help="Often 10 times below that of pre-training.",
)
@click.option(
    "--labels-per-class",
    type=click.IntRange(min=1),
    help="Train on so many random images of each class; a step has no more.  [default: all]",
)
@recording_options
@training_options
@seed_option("Of new weights, subset, order, augmentation and masks.")
@overwrite_option("Replace an earlier run.")
@click.pass_context
def finetune(
    context: click.Context,
    model: str,
    resume: pathlib.Path | None,
    data: DataOptions,
    training: TrainingOptions,
    output: pathlib.Path,
    overwrite: bool,
    **settings,
):
    """Train the pre-trained MODEL to classify, and measure it on the test images.

    Training stops early at the best validation accuracy, whose weights are kept. With
    --train-on-validation it takes exactly --epochs epochs. SIGTERM or Ctrl-C end it after a step
    and save it; --resume goes on from there, or from before a crash.
    """
    settings = Settings(**settings)
    if resume is not None:
        check_nothing_changes(context)
        if say_if_finished(output, training):
            return
    strategy = make_strategy(training.strategy)
    writes = is_chief(strategy)
    if writes and resume is None:
        check_replaceable(output, overwrite, marker=RUN_FILE)
    material = Material.open(model, data, settings, strategy)
    if resume is not None:
        run = Run.resume(material, settings, training, output)
    else:
        run = Run(command_line(), material, settings, training, output)
        if writes:
            run.create(overwrite)
    try:
        metrics = run.finish(strategy)
    except Interrupted as interrupted:
        exit_interrupted(interrupted, KIND, output)
    if writes:
        data.report_bad_images()
        show(metrics, output, training)


def show(metrics: dict[str, Any], output: pathlib.Path, training: TrainingOptions) -> None:
    """Prints the metrics as a table, and where they are."""
    table = Table(title="Fine-tuning", title_justify="left")
    table.add_column("what")
    table.add_column("value")
    vote = f", vote under {metrics['votes']} masks" if metrics["votes"] else ""
    for row, name, form in (
        (f"validation accuracy{vote}", "validation_accuracy", ".2%"),
        (f"test accuracy{vote}", "test_accuracy", ".2%"),
        ("test accuracy under one mask", "single_mask_accuracy", ".2%"),
        ("test classification loss, nats", "test_classification_loss", ".4f"),
        ("test generative loss, nats per pixel", "test_generative_loss", ".4f"),
    ):
        if metrics[name] is not None:
            table.add_row(row, format(metrics[name], form))
    epochs = len(metrics["history"]["loss"])
    table.add_row("best epoch", f"{metrics['best_epoch']} of {epochs}")
    Console(stderr=training.progress == "json").print(table)
    training.conclude(f"wrote {output / MODEL_FOLDER}, the classifier, and {output / RESULT_FILE}")
