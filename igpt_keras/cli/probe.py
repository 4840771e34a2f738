"""`igpt probe`: which classes can be read off a model's features, layer by layer."""

import pathlib
from typing import TYPE_CHECKING, Any

import click

from igpt_keras import paper
from igpt_keras.cli.command import OptionGroup, command, command_line, option
from igpt_keras.cli.options import (
    COUNT,
    DATA,
    MODEL,
    PATH,
    POSITIVE,
    batch_size,
    output,
    overwrite,
    seed,
)
from igpt_keras.cli.signals import ending_on_sigterm
from igpt_keras.cli.training import print_bad_images

if TYPE_CHECKING:
    from igpt_keras.runs.options import DataOptions


SHOWN_CONFUSIONS = 3


class Integers(click.ParamType):
    """Different integers, separated by commas.

    Args:
        least: The smallest integer that is allowed.
    """

    name = "integers"

    def __init__(self, least: int):
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the list of integers that `value` names."""
        try:
            numbers = [int(number) for number in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list such as 4,25,400", param, ctx)
        if min(numbers) < self.least or len(set(numbers)) < len(numbers):
            self.fail(
                f"{value!r} must list different numbers of at least {self.least}",
                param,
                ctx,
            )
        return numbers


@command(
    MODEL,
    DATA,
    output(),
    OptionGroup(
        "settings",
        (
            option(
                "--method",
                default="lbfgs",
                metavar="NAME",
                help="Method of the classifiers: lbfgs, sgd, ridge, knn, attentive or a plug-in's. "
                "SGD reads the features from disk, for data sets too large for L-BFGS; ridge "
                "solves least squares in closed form; knn lets the nearest training images vote, "
                "by cosine similarity; attentive pools the states of a layer by learned attention.",
            ),
            option(
                "--layers",
                type=Integers(0),
                show_default="all",
                help="Layers to probe, such as 0,4,8.",
            ),
            option(
                "--concatenate",
                type=click.IntRange(min=2),
                metavar="K",
                help="Number of layers, centered at the best one, to probe concatenated as well.",
            ),
            option(
                "--labels-per-class",
                type=Integers(1),
                help="Numbers of labels per class, such as 4,25,400, with which to probe the best "
                "layer as well, on 5 random subsets each.",
            ),
            option(
                "--baseline",
                metavar="NAME",
                help="Probe pixels, or what tokens hold of them, at the image size and with the "
                "tokenizer of MODEL, instead of its features.",
            ),
            option(
                "--epochs",
                type=COUNT,
                default=20,
                help="Number of epochs of sgd and attentive.",
            ),
            option(
                "--learning-rate",
                type=POSITIVE,
                show_default="the best of several on the validation images",
                help="Learning rate of sgd or attentive.",
            ),
            option(
                "--num-neighbors",
                type=COUNT,
                metavar="K",
                show_default="200",
                help="Number of neighbors of knn; all training images where there are fewer.",
            ),
            option(
                "--temperature",
                type=POSITIVE,
                show_default="0.1",
                help="Temperature of knn: a neighbor counts exp(cosine similarity / temperature).",
            ),
            option(
                "--num-heads",
                type=COUNT,
                show_default="8, or the largest of 4, 2 and 1 that divides the width",
                help="Number of attention heads of attentive.",
            ),
            batch_size(
                "Number of images per forward pass of MODEL, and per training step of attentive."
            ),
            seed("Random seed for subsets, the order of images, BERT's masks and ties."),
        ),
    ),
    option(
        "--feature-cache",
        type=PATH,
        metavar="DIR",
        help="Folder that keeps features for the next run.",
    ),
    overwrite(),
)
def probe(
    model: str,
    data: "DataOptions",
    output: pathlib.Path,
    feature_cache: pathlib.Path | None,
    overwrite: bool,
    settings: dict,
) -> None:
    """Train a classifier on the features of every layer.

    The best layer of MODEL, and the regularization of linear classifiers, are chosen on the
    validation images; the test images are only used to measure the accuracy. With
    --train-on-validation each classifier is then trained again on training and validation images.
    """
    from igpt_keras.cli.stages import StageBars
    from igpt_keras.runs import Probe
    from igpt_keras.runs.folder import RESULT_FILE

    probes = Probe.Settings(model=model, feature_cache=feature_cache, **settings)
    run = Probe.open(probes, data, output, overwrite=overwrite, command=command_line())
    with ending_on_sigterm(), StageBars() as bars:
        result = run.run([bars])
    print_bad_images(data)
    _show(result.metrics, probes)
    click.echo(f"Wrote {output / RESULT_FILE}")


def _show(metrics: dict[str, Any], settings) -> None:
    """Prints the accuracy of every layer, and the other metrics."""
    from rich.console import Console
    from rich.table import Table

    accuracies = {"validation_accuracy", "test_accuracy", "test_top_5_accuracy"}
    others = {"layer", "converged", *accuracies}
    chosen = next((name for name in metrics["layers"][0] if name not in others), "setting")
    table = Table(title="Probes", title_justify="left")
    for column in ("features", "validation", "test", chosen.replace("_", " ")):
        table.add_column(column, justify="left" if column == "features" else "right")
    for entry in metrics["layers"]:
        layer = entry["layer"]
        name = settings.baseline if layer is None else f"layer {layer}"
        best = layer is not None and layer == metrics["best_layer"]
        _add_row(table, entry, chosen, f"{name}, best" if best else name)
    if metrics["concatenated"]:
        layers = metrics["concatenated"]["layers"]
        _add_row(table, metrics["concatenated"], chosen, f"layers {layers[0]} to {layers[-1]}")
    Console().print(table)
    if metrics["test_top_5_accuracy"] is not None:
        click.echo(f"top-5 test accuracy of the best: {metrics['test_top_5_accuracy']:.2%}")
    confused = metrics["test_confusion"]["most_confused"][:SHOWN_CONFUSIONS]
    if confused:
        pairs = (f"{e['label']} as {e['predicted']} {e['images']:,}" for e in confused)
        click.echo(f"most confused test images: {', '.join(pairs)}")
    for run in metrics["low_data"]:
        click.echo(
            f"{run['labels_per_class']} labels per class, {run['features']}: test accuracy "
            f"{run['mean']:.2%} ± {run['std']:.2%} over {len(run['accuracies'])} subsets"
        )
    if metrics["voting"]:
        click.echo(
            f"vote under {paper.NUM_VOTES} masks, best layer: test accuracy "
            f"{metrics['voting']['test_accuracy']:.2%}; "
            f"under one mask {metrics['voting']['single_mask_accuracy']:.2%}"
        )


def _add_row(table, entry: dict[str, Any], chosen: str, name: str) -> None:
    value = f"{entry[chosen]:g}" if chosen in entry else ""
    if not entry.get("converged", True):
        value += ", not converged"
    accuracies = (entry["validation_accuracy"], entry["test_accuracy"])
    table.add_row(name, *(f"{accuracy:.2%}" for accuracy in accuracies), value)
