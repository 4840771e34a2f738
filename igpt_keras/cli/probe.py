"""`igpt probe`: which classes can be read off a model's features, layer by layer."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from igpt_keras.atomic import atomic_path
from igpt_keras.cli.evaluate import load_with_palette
from igpt_keras.cli.options import (
    DataOptions,
    batch_size_option,
    command_line,
    data_options,
    output_option,
    overwrite_option,
    seed_option,
)
from igpt_keras.data.open import DataSet
from igpt_keras.data.parts import Part
from igpt_keras.data.pipeline import read_images
from igpt_keras.data.splits import LabelledImages, LabelledTokens
from igpt_keras.errors import InputError
from igpt_keras.evaluation.baselines import pixel_features, token_features
from igpt_keras.evaluation.features import FeatureExtractor
from igpt_keras.evaluation.probes import (
    LBFGS,
    SGD,
    LayerFeatures,
    Parts,
    Probe,
    best_layer,
    fit_probe,
    layers_around,
    low_data_runs,
)
from igpt_keras.evaluation.results import RESULT_FILE, Result, describe_model, write_result
from igpt_keras.evaluation.voting import VOTES, modal_vote
from igpt_keras.models import GenerativeModel

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


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line says of the probes; see the options."""

    method: str
    layers: list[int] | None
    concatenate: int | None
    labels_per_class: list[int] | None
    baseline: str | None
    epochs: int
    batch_size: int
    seed: int


@click.command()
@click.argument("model")
@data_options
@output_option()
@click.option(
    "--method",
    type=click.Choice(["lbfgs", "sgd"]),
    default="lbfgs",
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
    help="Of MODEL take the size and the palette alone, and probe pixels or the colours of tokens.",
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
    default=20,
    show_default=True,
    help="Of SGD, for every learning rate.",
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

    The best layer, like how strongly its classifier is regularised, is chosen on the
    validation images; the test images are for measuring alone. With --fold-validation
    each classifier is then trained anew on training and validation images.
    """
    settings = Settings(**settings)
    with atomic_path(output, overwrite, marker=RESULT_FILE) as partial:
        loaded = load_with_palette(model)
        check_settings(loaded, settings)
        # What is folded is folded after the choice.
        data_set = dataclasses.replace(data, fold_validation=False).open()
        check_data(data_set)
        partial.mkdir()
        with feature_folder(feature_cache, partial) as folder:
            figures = measure(loaded, data_set, data, settings, folder)
        result = Result(
            kind="probe",
            command=command_line(),
            model=describe_model(loaded, model),
            data=data_set.describe(),
            settings=describe_settings(data, settings),
            figures=figures,
        )
        write_result(result, partial)
    data.report_bad_images()
    show(figures, settings)
    click.echo(f"wrote {output / RESULT_FILE}")


def check_settings(model: GenerativeModel, settings: Settings) -> None:
    """Raises `InputError` for layers that are not there."""
    last = model.config.num_layers
    if settings.baseline is not None and (settings.layers or settings.concatenate):
        raise InputError(f"baseline={settings.baseline} has no layers to choose or concatenate")
    if settings.layers is not None and max(settings.layers) > last:
        raise InputError(f"layers must lie in 0…{last}, got {max(settings.layers)}")
    if settings.concatenate is not None and settings.concatenate > last + 1:
        raise InputError(f"concatenate must lie in 2…{last + 1}, got {settings.concatenate}")


def check_data(data_set: DataSet) -> None:
    """Raises `InputError` for data that probes cannot be trained and measured on."""
    data_set.labelled_train()
    if data_set.test is None or not data_set.test.labelled:
        raise InputError(
            f"data={data_set.specs[0]} has no labelled test part to measure the accuracy on; "
            "a folder has its own in test/<class>/"
        )


@contextlib.contextmanager
def feature_folder(cache: pathlib.Path | None, run: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where features go: to `cache`, or beside the result of `run` for as long as needed."""
    if cache is not None:
        yield cache
        return
    with tempfile.TemporaryDirectory(dir=run) as folder:
        yield pathlib.Path(folder)


def measure(
    model: GenerativeModel,
    data_set: DataSet,
    data: DataOptions,
    settings: Settings,
    folder: pathlib.Path,
) -> dict[str, Any]:
    """The figures of a result; `folder` is for the features."""
    num_classes = len(data_set.class_names)
    sources = (data_set.train, data_set.validation, data_set.test)
    if settings.baseline == "pixels":
        images = [read_pixels(part, model, data) for part in sources]
        parts = Parts(*map(pixel_features, images), num_classes)
        return baseline_figures(parts, data, settings)
    size = model.config.image_size
    tokens = [data.encode(part, model.palette, size) for part in sources]
    if settings.baseline == "tokens":
        features = [token_features(part, model.palette) for part in tokens]
        return baseline_figures(Parts(*features, num_classes), data, settings)
    train, validation, *votes = extract(model, tokens, settings, folder)
    parts = Parts(train, validation, votes[0], num_classes)
    return model_figures(parts, votes, data, settings)


def read_pixels(part: Part, model: GenerativeModel, data: DataOptions) -> LabelledImages:
    """The images of `part` at the size of `model`, before the palette."""
    return read_images(
        part,
        model.config.image_size,
        augmentation_name=data.augmentation,
        decoder=data.decoder,
    )


def extract(
    model: GenerativeModel, tokens: list[LabelledTokens], settings: Settings, folder: pathlib.Path
) -> list[LayerFeatures]:
    """Features of train, validation and test part; for BERT of test under every mask."""
    train, validation, test = tokens
    votes = VOTES if model.objective == "bert" else 1
    passes = [(train, 0), (validation, 0), *((test, vote) for vote in range(votes))]
    total = sum(len(part) for part, _ in passes)
    with Progress(console=console) as progress:
        task = progress.add_task("features", total=total)
        extractor = FeatureExtractor(
            model,
            folder,
            batch_size=settings.batch_size,
            seed=settings.seed,
            on_batch=lambda count: progress.advance(task, count),
        )
        features = [
            LayerFeatures(extractor.features(part.tokens, vote), part.labels)
            for part, vote in passes
        ]
        # Those found in the cache ran no batch.
        progress.update(task, completed=total)
    return features


def baseline_figures(parts: Parts, data: DataOptions, settings: Settings) -> dict[str, Any]:
    """The figures of a result without a model's layers."""
    probe = fit_probe(make_method(settings), parts, data.fold_validation)
    figures = probe_figures(probe, parts)
    return {
        "method": settings.method,
        "num_classes": parts.num_classes,
        "layers": [{"layer": None, **figures}],
        "best_layer": None,
        "validation_accuracy": figures["validation_accuracy"],
        "test_accuracy": figures["test_accuracy"],
        "concatenated": None,
        "low_data": low_data(parts, settings, settings.baseline),
        "voting": None,
    }


def model_figures(
    parts: Parts, votes: list[LayerFeatures], data: DataOptions, settings: Settings
) -> dict[str, Any]:
    """The figures of a result of every layer; `votes` is the test part under every mask."""
    method = make_method(settings)
    last = len(parts.train.layers) - 1
    curve = {}
    with Progress(console=console) as progress:
        for layer in progress.track(settings.layers or range(last + 1), description="probes"):
            curve[layer] = fit_probe(method, parts.select([layer]), data.fold_validation)
    of_layers = {
        layer: probe_figures(probe, parts.select([layer])) for layer, probe in curve.items()
    }
    best = best_layer(curve)
    concatenated = None
    if settings.concatenate is not None:
        around = layers_around(best, settings.concatenate, last)
        chosen = parts.select(around)
        probe = fit_probe(method, chosen, data.fold_validation)
        concatenated = {"layers": around, **probe_figures(probe, chosen)}
    return {
        "method": settings.method,
        "num_classes": parts.num_classes,
        "layers": [{"layer": layer, **figures} for layer, figures in of_layers.items()],
        "best_layer": best,
        "validation_accuracy": of_layers[best]["validation_accuracy"],
        "test_accuracy": of_layers[best]["test_accuracy"],
        "concatenated": concatenated,
        "low_data": low_data(parts.select([best]), settings, f"best layer {best}"),
        "voting": voting_figures(
            curve[best], [vote.select([best]) for vote in votes], parts.num_classes, settings.seed
        ),
    }


def make_method(settings: Settings) -> LBFGS | SGD:
    if settings.method == "sgd":
        return SGD(epochs=settings.epochs, seed=settings.seed)
    return LBFGS()


def probe_figures(probe: Probe, parts: Parts) -> dict[str, Any]:
    return {
        "validation_accuracy": probe.validation_accuracy,
        "test_accuracy": probe.accuracy(parts.test),
        **probe.setting,
    }


def low_data(parts: Parts, settings: Settings, features: str) -> list[dict[str, Any]]:
    """As `low_data_runs`; `features` says what they are of."""
    counts = settings.labels_per_class or []
    runs = low_data_runs(make_method(settings), parts, counts, seed=settings.seed)
    return [{"features": features, **run} for run in runs]


def voting_figures(
    probe: Probe, votes: list[LayerFeatures], num_classes: int, seed: int
) -> dict[str, float] | None:
    """Accuracy of the vote and of its first voter; None where there is one alone."""
    if len(votes) == 1:
        return None
    predictions = np.stack([probe.predict(vote) for vote in votes])
    elected = modal_vote(predictions, num_classes, seed)
    return {
        "test_accuracy": float((elected == votes[0].labels).mean()),
        "single_mask_accuracy": probe.accuracy(votes[0]),
    }


def describe_settings(data: DataOptions, settings: Settings) -> dict[str, Any]:
    """What a result says of the settings."""
    described = dataclasses.asdict(settings)
    return {
        "features": described.pop("baseline") or "model",
        **described,
        "epochs": settings.epochs if settings.method == "sgd" else None,
        "augmentation": data.augmentation,
        "fold_validation": data.fold_validation,
        "split_seed": data.split_seed,
    }


def show(figures: dict[str, Any], settings: Settings) -> None:
    """Prints the curve over layers, and what else was measured."""
    chosen = "learning rate" if settings.method == "sgd" else "strength"
    table = Table(title="Linear probes", title_justify="left")
    for column in ("features", "validation", "test", chosen):
        table.add_column(column, justify="left" if column == "features" else "right")
    for entry in figures["layers"]:
        layer = entry["layer"]
        name = settings.baseline if layer is None else f"layer {layer}"
        best = layer is not None and layer == figures["best_layer"]
        add_row(table, entry, chosen, f"{name}, best" if best else name)
    if figures["concatenated"]:
        layers = figures["concatenated"]["layers"]
        add_row(table, figures["concatenated"], chosen, f"layers {layers[0]} to {layers[-1]}")
    console.print(table)
    for run in figures["low_data"]:
        console.print(
            f"{run['labels_per_class']} labels per class, {run['features']}: test accuracy "
            f"{run['mean']:.2%} ± {run['std']:.2%} over {len(run['accuracies'])} subsets"
        )
    if figures["voting"]:
        console.print(
            f"vote under {VOTES} masks, best layer: test accuracy "
            f"{figures['voting']['test_accuracy']:.2%}; "
            f"under one mask {figures['voting']['single_mask_accuracy']:.2%}"
        )


def add_row(table: Table, entry: dict[str, Any], chosen: str, name: str) -> None:
    value = f"{entry[chosen.replace(' ', '_')]:g}"
    if not entry.get("converged", True):
        value += ", not converged"
    accuracies = (entry["validation_accuracy"], entry["test_accuracy"])
    table.add_row(name, *(f"{accuracy:.2%}" for accuracy in accuracies), value)
