"""`igpt evaluate`: losses and accuracy of a model on validation and test images."""

import pathlib
from typing import TYPE_CHECKING, Any

import click

from igpt_keras.cli.command import OptionGroup, command, command_line, option
from igpt_keras.cli.options import (
    DATA,
    MODEL,
    SHIPPED_MODEL,
    batch_size,
    output,
    overwrite,
    seed,
)
from igpt_keras.cli.set_comparison import print_comparison
from igpt_keras.cli.signals import ending_on_sigterm
from igpt_keras.cli.training import print_bad_images

if TYPE_CHECKING:
    from igpt_keras.runs.options import DataOptions


class Samples(click.ParamType):
    """A number of images, or the path of a set of images."""

    name = "number or path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns an integer or a path."""
        return int(value) if str(value).isdecimal() else value


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
            seed("Random seed for BERT's masks and for --samples."),
            option(
                "--samples",
                type=Samples(),
                metavar="N|PATH",
                help="Compare generated images with real ones: N new samples of MODEL, a file such "
                "as samples.npz, or a folder of images.",
            ),
            option(
                "--reference",
                type=click.Choice(["train", "validation", "test"]),
                show_default="test, or else validation",
                help="Split that --samples are compared with.",
            ),
            option(
                "--features",
                default=f"model:{SHIPPED_MODEL}",
                metavar="KIND:PATH",
                help="Features that --samples are compared by: inception:FILE for FID and KID, "
                "with torch-fidelity's weights; model:PATH for those of a model of igpt, which are "
                "not FID; or a plug-in's.",
            ),
        ),
    ),
    overwrite(),
)
def evaluate(
    model: str, data: "DataOptions", output: pathlib.Path, overwrite: bool, settings: dict
) -> None:
    """Measure the losses and the accuracy of a model.

    MODEL is evaluated on the validation and the test images: the generative loss, compared with
    count-based baselines, and the accuracy of a classifier. The loss of a class-conditional model
    is that given the class, and its accuracy that of the class with the largest likelihood. A BERT
    model sees five masks of every image. A model with the rgb tokenizer also gets the bits per
    dimension that the literature reports.

    With --samples, generated images are compared with real ones as well: by the Fréchet distance,
    the kernel distance, precision and recall. An interrupted command continues its sampling when
    it is given again.
    """
    from igpt_keras.cli.stages import StageBars
    from igpt_keras.runs import Evaluate
    from igpt_keras.runs.folder import RESULT_FILE

    run = Evaluate.open(
        Evaluate.Settings(model=model, **settings),
        data,
        output,
        overwrite=overwrite,
        command=command_line(),
    )
    with ending_on_sigterm(), StageBars() as bars:
        result = run.run([bars])
    print_bad_images(data)
    _show(result.metrics, list(run.held_out), f"{model} on {result.data['name']}")
    if "samples" in result.metrics:
        print_comparison(result)
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
        ("the loss without classes", "unconditional_loss", ".4f"),
        ("accuracy", "accuracy", ".2%"),
        ("top-5 accuracy", "top_5_accuracy", ".2%"),
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
