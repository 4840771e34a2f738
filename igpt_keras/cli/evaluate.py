"""`igpt evaluate`: losses and accuracy of a model on validation and test images."""

import pathlib
from typing import TYPE_CHECKING, Any

import click

from igpt_keras.cli.command import OptionGroup, command, command_line, option
from igpt_keras.cli.options import DATA, MODEL, batch_size, output, overwrite, seed
from igpt_keras.cli.training import print_bad_images

if TYPE_CHECKING:
    from igpt_keras.runs.options import DataOptions


@command(
    MODEL,
    DATA,
    output(),
    OptionGroup(
        "settings",
        (
            batch_size("Number of images per batch."),
            option(
                "--baselines/--no-baselines",
                default=True,
                help="Compare with count-based baselines, which read the training images.",
            ),
            seed("Random seed for BERT's masks."),
        ),
    ),
    overwrite(),
)
def evaluate(
    model: str, data: "DataOptions", output: pathlib.Path, overwrite: bool, settings: dict
) -> None:
    """Measure the losses and the accuracy of a model.

    MODEL is evaluated on the validation and the test images: the generative loss,
    compared with count-based baselines, and the accuracy of a classifier. A BERT model sees five
    masks of every image. A model with the rgb tokenizer also gets the bits per dimension that the
    literature reports.
    """
    from igpt_keras.runs import Evaluate
    from igpt_keras.runs.folder import RESULT_FILE

    run = Evaluate.open(
        Evaluate.Settings(model=model, **settings),
        data,
        output,
        overwrite=overwrite,
        command=command_line(),
    )
    result = run.run()
    print_bad_images(data)
    _show(result.metrics, list(run.held_out), f"{model} on {result.data['name']}")
    click.echo(f"Wrote {output / RESULT_FILE}")


def _show(metrics: dict[str, Any], splits: list[str], title: str) -> None:
    """Prints the metrics as a table with a column for each split."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in ("", *splits):
        table.add_column(column)
    for row, name, form in (
        ("generative loss, nats per token", "loss", ".4f"),
        ("the same in bits per pixel", "bits_per_pixel", ".4f"),
        ("the same in bits per dimension", "bits_per_dimension", ".4f"),
        ("accuracy", "accuracy", ".2%"),
        ("accuracy under one mask", "single_mask_accuracy", ".2%"),
        ("classification loss, nats", "classification_loss", ".4f"),
    ):
        values = [metrics.get(f"{split}_{name}") for split in splits]
        if None not in values:
            table.add_row(row, *(format(value, form) for value in values))
    baselines = metrics.get("baselines", {})
    for name in baselines.get(splits[0], {}):
        row = f"baseline, nats per token: {name}"
        table.add_row(row, *(f"{baselines[split][name]:.4f}" for split in splits))
    Console().print(table)
