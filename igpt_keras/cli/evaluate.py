"""`igpt evaluate`: losses and accuracy of a model on validation and test images."""

import math
import pathlib

import click
from rich.console import Console
from rich.table import Table

from igpt_keras.atomic import atomic_path
from igpt_keras.cli.command import command, command_line, option
from igpt_keras.cli.options import DATA, MODEL, batch_size, output, overwrite, seed
from igpt_keras.data.data_set import DataSet
from igpt_keras.data.labeled import LabeledTokens
from igpt_keras.errors import InputError
from igpt_keras.evaluation.baselines import generative_baselines
from igpt_keras.evaluation.metrics import classifier_metrics, generative_loss
from igpt_keras.evaluation.voting import VOTES
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.runs.options import DataOptions
from igpt_keras.runs.result import RESULT_FILE, Result, describe_model, write_result
from igpt_keras.runs.tokenizers import load_with_palette


@command(
    MODEL,
    DATA,
    output(),
    batch_size("Number of images per batch."),
    option(
        "--baselines/--no-baselines",
        default=True,
        help="Compare with count-based baselines, which read the training images.",
    ),
    seed("Random seed for BERT's masks."),
    overwrite(),
)
def evaluate(
    model: str,
    data: DataOptions,
    output: pathlib.Path,
    batch_size: int,
    baselines: bool,
    seed: int,
    overwrite: bool,
):
    """Measure the losses and the accuracy of a model.

    MODEL is evaluated on the validation and the test images: the generative loss in nats and bits
    per pixel, compared with count-based baselines, and the accuracy of a classifier. A BERT model
    sees five masks of every image.
    """
    with atomic_path(output, overwrite, marker=RESULT_FILE) as partial:
        loaded = load_with_palette(model)
        data_set = data.open()
        check_classes(loaded, data_set)
        tokenized = {
            name: data.tokenize(split, loaded.tokenizer)
            for name, split in (("validation", data_set.validation), ("test", data_set.test))
            if split is not None
        }
        if not tokenized:
            raise InputError("data has neither a validation split nor a test split to evaluate on")
        metrics = {"votes": VOTES if loaded.objective == "bert" else None}
        for name, split in tokenized.items():
            metrics |= measure(loaded, split, name, batch_size, seed)
        if baselines and loaded.generative_weight > 0:
            metrics["baselines"] = count_baselines(loaded, data, data_set, tokenized)
        partial.mkdir()
        result = Result(
            kind="evaluate",
            command=command_line(),
            model=describe_model(loaded, model),
            data=data_set.describe(),
            settings={
                "batch_size": batch_size,
                "seed": seed,
                "augmentation": data.augmentation,
                "split_seed": data.split_seed,
            },
            metrics=metrics,
        )
        write_result(result, partial)
    data.report_bad_images()
    show(metrics, list(tokenized), f"{model} on {data_set.describe()['name']}")
    click.echo(f"Wrote {output / RESULT_FILE}")


def check_classes(model: GenerativeModel, data_set: DataSet) -> None:
    """Raises `InputError` if `model` classifies, and not into the classes of `data_set`."""
    if isinstance(model, ImageGPTClassifier) and model.class_names != data_set.class_names:
        raise InputError(
            f"data must have the classes of the classifier, {_names(model.class_names)}; "
            f"got {_names(data_set.class_names)}"
        )


def _names(class_names: list[str]) -> str:
    if not class_names:
        return "none"
    shown = ", ".join(class_names[:5])
    return shown if len(class_names) <= 5 else f"{shown}, … ({len(class_names)} in all)"


def measure(
    model: GenerativeModel, split: LabeledTokens, name: str, batch_size: int, seed: int
) -> dict[str, float | None]:
    """The metrics of one split, their names beginning with `name`."""
    settings = {"batch_size": batch_size, "seed": seed}
    if not isinstance(model, ImageGPTClassifier):
        return _losses(name, generative_loss(model, split.tokens, **settings))
    metrics = classifier_metrics(model, split.tokens, split.labels, **settings)
    return {
        **_losses(name, metrics.generative_loss),
        f"{name}_accuracy": metrics.accuracy,
        f"{name}_single_mask_accuracy": metrics.single_mask_accuracy,
        f"{name}_classification_loss": metrics.classification_loss,
    }


def _losses(name: str, nll: float | None) -> dict[str, float | None]:
    bits = None if nll is None else nll / math.log(2)
    return {f"{name}_loss": nll, f"{name}_bits_per_pixel": bits}


def count_baselines(
    model: GenerativeModel,
    data: DataOptions,
    data_set: DataSet,
    tokenized: dict[str, LabeledTokens],
) -> dict[str, dict[str, float]]:
    """Losses of count-based models of the training images, for every split in `tokenized`."""
    config = model.config
    train = data.tokenize(data_set.train, model.tokenizer)
    return {
        name: generative_baselines(
            train.tokens, split.tokens, config.vocabulary_size, config.image_size
        )
        for name, split in tokenized.items()
    }


def show(metrics: dict, splits: list[str], title: str) -> None:
    """Prints the metrics as a table with a column for each split."""
    table = Table(title=title, title_justify="left")
    for column in ("", *splits):
        table.add_column(column)
    for row, name, form in (
        ("generative loss, nats per pixel", "loss", ".4f"),
        ("the same in bits per pixel", "bits_per_pixel", ".4f"),
        ("accuracy", "accuracy", ".2%"),
        ("accuracy under one mask", "single_mask_accuracy", ".2%"),
        ("classification loss, nats", "classification_loss", ".4f"),
    ):
        values = [metrics.get(f"{split}_{name}") for split in splits]
        if None not in values:
            table.add_row(row, *(format(value, form) for value in values))
    baselines = metrics.get("baselines", {})
    for name in baselines.get(splits[0], {}):
        row = f"baseline, nats per pixel: {name}"
        table.add_row(row, *(f"{baselines[split][name]:.4f}" for split in splits))
    Console().print(table)
