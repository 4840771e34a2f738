"""`igpt finetune`: a pre-trained model learns to classify."""

import pathlib
from typing import TYPE_CHECKING, Any

import click

from igpt_keras import paper
from igpt_keras.cli.callbacks import CALLBACKS
from igpt_keras.cli.command import OptionGroup, command, command_line, option
from igpt_keras.cli.options import (
    COUNT,
    DATA,
    MODEL,
    MODEL_TRAINING,
    POSITIVE,
    PROGRESS,
    batch_size,
    output,
    overwrite,
    seed,
)
from igpt_keras.cli.resume import check_nothing_changes, resume_option
from igpt_keras.cli.training import print_bad_images, print_result, train
from igpt_keras.wording import plural

if TYPE_CHECKING:
    import keras

    from igpt_keras.runs.options import DataOptions


@command(
    MODEL,
    resume_option("finetune"),
    DATA,
    output("Folder of the run."),
    OptionGroup(
        "settings",
        (
            option(
                "--from-scratch",
                is_flag=True,
                help="Use only the sizes and the tokenizer of MODEL, with new weights.",
            ),
            option(
                "--generative-weight",
                type=click.FloatRange(min=0),
                default=paper.GENERATIVE_WEIGHT,
                help="Weight of the generative loss, which is added to the classification loss.",
            ),
            option(
                "--layer",
                type=click.IntRange(min=0),
                show_default="the last",
                help="Layer whose features the class head reads.",
            ),
            option(
                "--lora-rank",
                type=COUNT,
                show_default="the weights themselves train",
                help="Train low-rank adapters (LoRA) of this rank in the place of the pre-trained "
                "weights, which then have no gradient and no optimizer state.",
            ),
            option(
                "--freeze-blocks",
                type=click.IntRange(min=0),
                default=0,
                help="Number of first blocks to keep as they are, along with the embeddings.",
            ),
            option("--epochs", type=COUNT, default=30, help="Maximum number of epochs."),
            option(
                "--patience",
                type=COUNT,
                default=5,
                help="Number of epochs without a better validation accuracy to stop after.",
            ),
            batch_size(),
            option(
                "--learning-rate",
                type=POSITIVE,
                default=paper.FINETUNING_LEARNING_RATE,
                help="Learning rate; often a tenth of the one that MODEL was pre-trained with.",
            ),
            option(
                "--labels-per-class",
                type=COUNT,
                show_default="all",
                help="Number of random images of each class to train on, which also limits the "
                "batch size.",
            ),
            *MODEL_TRAINING,
            seed("Random seed for new weights, the subset of images, their order and masks."),
        ),
    ),
    CALLBACKS,
    PROGRESS,
    overwrite("Replace an existing run."),
)
@click.pass_context
def finetune(
    context: click.Context,
    model: str,
    resume: pathlib.Path | None,
    data: "DataOptions",
    callbacks: "list[keras.callbacks.Callback]",
    progress: str,
    output: pathlib.Path,
    overwrite: bool,
    settings: dict,
) -> None:
    """Train a pre-trained model to classify, and test it.

    Training of MODEL stops early at the best validation accuracy and keeps the weights of that
    epoch. With --train-on-validation it takes exactly --epochs epochs. SIGTERM and Ctrl-C end it
    after the current step and save a checkpoint; --resume continues from the last checkpoint,
    also after a crash.
    """
    from igpt_keras.runs import Finetune

    if resume is not None:
        check_nothing_changes(context)
    run = Finetune.open(
        Finetune.Settings(model=model, **settings),
        data,
        output,
        resume=resume is not None,
        overwrite=overwrite,
        command=command_line(),
    )
    if not run.finished and progress != "quiet":
        print_result(_plan(run), progress)
    result = train(run, ("loss", "val_accuracy"), progress, callbacks)
    if result is not None:
        print_bad_images(data)
        _show(result.metrics, output, progress)


def _plan(run) -> str:
    """Returns how many images there are, and how long the training takes."""
    images = f"{plural(run.num_images, 'image')} to train, {len(run.held_out['test']):,} to test"
    if "validation" not in run.held_out:
        return (
            f"{images}\nThe validation images are trained on: no early stopping, exactly "
            f"{plural(run.settings.epochs, 'epoch')}"
        )
    return (
        f"{images}\n{len(run.held_out['validation']):,} to validate: at most "
        f"{plural(run.settings.epochs, 'epoch')}, ended by {run.settings.patience} without a "
        "better validation accuracy"
    )


def _show(metrics: dict[str, Any], output: pathlib.Path, progress: str) -> None:
    """Prints the metrics as a table, and where they are."""
    from rich.console import Console
    from rich.table import Table

    from igpt_keras.runs.folder import RESULT_FILE
    from igpt_keras.saving import MODEL_FOLDER

    table = Table(title="Fine-tuning", title_justify="left")
    table.add_column("metric")
    table.add_column("value")
    vote = f", vote under {metrics['votes']} masks" if metrics["votes"] else ""
    for row, name, form in (
        (f"validation accuracy{vote}", "validation_accuracy", ".2%"),
        (f"test accuracy{vote}", "test_accuracy", ".2%"),
        (f"test top-5 accuracy{vote and ', mean over masks'}", "test_top_5_accuracy", ".2%"),
        ("test accuracy under one mask", "single_mask_accuracy", ".2%"),
        ("test classification loss, nats", "test_classification_loss", ".4f"),
        ("test generative loss, nats per token", "test_generative_loss", ".4f"),
    ):
        if metrics[name] is not None:
            table.add_row(row, format(metrics[name], form))
    epochs = len(metrics["history"]["loss"])
    table.add_row("best epoch", f"{metrics['best_epoch']} of {epochs}")
    trained, total = metrics["trainable_parameters"], metrics["total_parameters"]
    table.add_row("parameters that trained", f"{trained:,} of {total:,}")
    Console(stderr=progress == "json").print(table)
    print_result(
        f"Wrote the classifier {output / MODEL_FOLDER} and {output / RESULT_FILE}", progress
    )
