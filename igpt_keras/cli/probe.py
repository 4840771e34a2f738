"""`igpt probe`: which classes can be read off a model's features, layer by layer."""

import pathlib
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from igpt_keras.cli.options import (
    batch_size_option,
    command_line,
    data_options,
    output_option,
    overwrite_option,
    seed_option,
)
from igpt_keras.evaluation.voting import VOTES
from igpt_keras.runs.options import DataOptions
from igpt_keras.runs.probe import Run, Settings
from igpt_keras.runs.result import RESULT_FILE

console = Console()


class Integers(click.ParamType):
    """Integers of at least `least`, separated by commas."""

    name = "integers"

    def __init__(self, least: int):
        self.least = least

    def convert(self, value, parameter, context):
        try:
            numbers = [int(number) for number in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is no list such as 4,25,400", parameter, context)
        if min(numbers) < self.least or len(set(numbers)) < len(numbers):
            self.fail(
                f"{value!r} must hold different numbers of at least {self.least}",
                parameter,
                context,
            )
        return numbers


@click.command()
@click.argument("model")
@data_options
@output_option()
@click.option(
    "--method",
    type=click.Choice(["lbfgs", "sgd"]),
    default=Settings.method,
    show_default=True,
    help="SGD reads the features from disk, for sets too large for L-BFGS.",
)
@click.option("--layers", type=Integers(0), help="Such as 0,4,8.  [default: all]")
@click.option(
    "--concatenate",
    type=click.IntRange(min=2),
    metavar="K",
    help="Probe K layers around the best one as well, side by side.",
)
@click.option(
    "--labels-per-class",
    type=Integers(1),
    help="Such as 4,25,400: probe the best layer with so few labels as well, 5 subsets each.",
)
@click.option(
    "--baseline",
    type=click.Choice(["pixels", "tokens"]),
    help="Of MODEL take the size and the palette alone, and probe pixels or the colors of tokens.",
)
@click.option(
    "--feature-cache",
    type=click.Path(path_type=pathlib.Path),
    metavar="DIR",
    help="Keep features there, to be read by the next run.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=Settings.epochs,
    show_default=True,
    help="Of SGD, for every learning rate.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Of SGD.  [default: the best of 30, 10, 3, … on the validation images]",
)
@batch_size_option("Images the model sees at a time.")
@seed_option("Of subsets, order of images, BERT's masks and ties.")
@overwrite_option()
def probe(
    model: str,
    data: DataOptions,
    output: pathlib.Path,
    feature_cache: pathlib.Path | None,
    overwrite: bool,
    **settings,
):
    """Train a linear classifier on the features of every layer of MODEL.

    The best layer, like how strongly its classifier is regularized, is chosen on the
    validation images; the test images are for measuring alone. With --train-on-validation
    each classifier is then trained anew on training and validation images.
    """
    settings = Settings(**settings)
    metrics = Run(command_line(), model, data, settings, output, feature_cache).finish(overwrite)
    data.report_bad_images()
    show(metrics, settings)
    click.echo(f"wrote {output / RESULT_FILE}")


def show(metrics: dict[str, Any], settings: Settings) -> None:
    """Prints the curve over layers, and what else was measured."""
    chosen = "learning rate" if settings.method == "sgd" else "C"
    table = Table(title="Linear probes", title_justify="left")
    for column in ("features", "validation", "test", chosen):
        table.add_column(column, justify="left" if column == "features" else "right")
    for entry in metrics["layers"]:
        layer = entry["layer"]
        name = settings.baseline if layer is None else f"layer {layer}"
        best = layer is not None and layer == metrics["best_layer"]
        add_row(table, entry, chosen, f"{name}, best" if best else name)
    if metrics["concatenated"]:
        layers = metrics["concatenated"]["layers"]
        add_row(table, metrics["concatenated"], chosen, f"layers {layers[0]} to {layers[-1]}")
    console.print(table)
    for run in metrics["low_data"]:
        console.print(
            f"{run['labels_per_class']} labels per class, {run['features']}: test accuracy "
            f"{run['mean']:.2%} ± {run['std']:.2%} over {len(run['accuracies'])} subsets"
        )
    if metrics["voting"]:
        console.print(
            f"vote under {VOTES} masks, best layer: test accuracy "
            f"{metrics['voting']['test_accuracy']:.2%}; "
            f"under one mask {metrics['voting']['single_mask_accuracy']:.2%}"
        )


def add_row(table: Table, entry: dict[str, Any], chosen: str, name: str) -> None:
    value = f"{entry[chosen.replace(' ', '_')]:g}"
    if not entry.get("converged", True):
        value += ", not converged"
    accuracies = (entry["validation_accuracy"], entry["test_accuracy"])
    table.add_row(name, *(f"{accuracy:.2%}" for accuracy in accuracies), value)
