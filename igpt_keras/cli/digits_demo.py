"""The stages of `igpt quickstart`, on scikit-learn's digits."""

import dataclasses
import pathlib
import time
from typing import NamedTuple, cast

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from igpt_keras.atomic import atomic_path
from igpt_keras.data.data_set import open_data
from igpt_keras.data.labeled import LabeledImages
from igpt_keras.data.splits import Split
from igpt_keras.data.tokenization import read_images
from igpt_keras.evaluation.baselines import generative_baselines, raw_pixel_accuracy
from igpt_keras.json_files import write_json
from igpt_keras.models import ImageGPT, ImageGPTClassifier
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.pictures.completions import completion_sheet, known_rows, numbered_sheet
from igpt_keras.pictures.contact_sheets import save_png
from igpt_keras.sampling.checks import check_backend
from igpt_keras.sampling.requests import Completions
from igpt_keras.saving import TOKENIZER_ERROR, read_training
from igpt_keras.tokenizers import ColorPalette
from igpt_keras.tokenizers.base import tokenizer_of
from igpt_keras.training.callbacks.progress_bar import ProgressBar
from igpt_keras.training.recipes import finetune, pretrain
from serving import Client, Server, export
from serving.client import Classifications

IMAGE_SIZE = 8
NUM_COLORS = 16
HIDDEN_DIM, NUM_LAYERS, NUM_HEADS = 64, 4, 4
BATCH_SIZE = 32
PRETRAINING_EPOCHS = 16
PRETRAINING_RATE = 0.003
# With 0.001 the pre-trained model was worse on the validation split.
FINETUNING_RATE = 0.003
FEW_LABELS = 10
FINETUNING_WITH_FEW = {"epochs": 24, "patience": 8, "batch_size": 8}
FINETUNING_WITH_ALL = {"epochs": 7, "patience": 7, "batch_size": 32, "clip_norm": 1.0}
KEEP_ROWS = 4
SHOWN_COMPLETIONS = 6
SAMPLES = 60
SERVED_IMAGES = 8
MEASUREMENTS = "measurements.json"

console = Console()


@dataclasses.dataclass
class Measurement:
    """One row of the table of results.

    Attributes:
        name: What was measured.
        value: The result.
        comparison: Results of baselines, or how the result was checked.
    """

    name: str
    value: str
    comparison: str = ""


def run(output: pathlib.Path, seed: int, overwrite: bool) -> None:
    """Runs all stages, writes `output` whole or not at all, and prints the results."""
    check_backend("quickstart", "tensorflow")
    start = time.monotonic()
    with atomic_path(output, overwrite, marker=MEASUREMENTS) as partial:
        partial.mkdir()
        measurements = measure(partial, seed)
        minutes = (time.monotonic() - start) / 60
        measurements.append(Measurement("wall time", f"{minutes:.1f} min"))
        rows = [dataclasses.asdict(measurement) for measurement in measurements]
        write_json(partial / MEASUREMENTS, rows)
    show(measurements, output)


class Digits(NamedTuple):
    """Handwritten digits in memory."""

    train: LabeledImages
    validation: LabeledImages
    test: LabeledImages
    class_names: list[str]


def read_digits(seed: int) -> Digits:
    """Reads the digits; the validation images are chosen by the seed."""
    data = open_data("digits", seed=seed)
    train, validation, test = (
        read_images(cast(Split, split), IMAGE_SIZE)
        for split in (data.train, data.validation, data.test)
    )
    return Digits(train, validation, test, data.class_names)


def measure(folder: pathlib.Path, seed: int) -> list[Measurement]:
    """Runs all stages, which write into `folder`, and returns the results."""
    digits = read_digits(seed)
    palette = ColorPalette.fit(digits.train.images, NUM_COLORS, seed)
    heading(
        f"{len(digits.train)} digits to train, {len(digits.validation)} to validate, "
        f"{len(digits.test)} to test; {NUM_COLORS} colors"
    )
    model, measurements = pretraining(digits, palette, folder, seed)
    draw_pictures(model, digits.test, folder, seed)
    classifier, accuracies = finetuning(model, digits, folder, seed)
    served = serve_and_ask(model, classifier, digits.test, folder, seed)
    return measurements + accuracies + served


def pretraining(
    digits: Digits, palette: ColorPalette, folder: pathlib.Path, seed: int
) -> tuple[ImageGPT, list[Measurement]]:
    """Returns a pre-trained model, and its test loss compared with baselines."""
    heading("Pre-training (autoregressive)")
    config = ImageGPTConfig(IMAGE_SIZE, NUM_COLORS, HIDDEN_DIM, NUM_LAYERS, NUM_HEADS)
    keras.utils.set_random_seed(seed)
    model = ImageGPT(config, tokenizer=palette)
    train, validation, test = (
        palette.tokenize(split.images) for split in (digits.train, digits.validation, digits.test)
    )
    settings = {
        "epochs": PRETRAINING_EPOCHS,
        "batch_size": BATCH_SIZE,
        "learning_rate": PRETRAINING_RATE,
        "seed": seed,
    }
    with ProgressBar("pre-training", ("loss", "val_loss")) as bar:
        history = pretrain(model, train, validation, callbacks=[bar], verbose=0, **settings)
    errors = palette.reconstruction_error(digits.validation.images)
    training = {"data": "scikit-learn digits", **settings, "history": history}
    training[TOKENIZER_ERROR] = float(np.sqrt(np.mean(np.square(errors))))
    model.save_to_preset(folder / "pretrained", training=training)

    loss = model.evaluate(test, batch_size=len(test), verbose=0, return_dict=True)["loss"]
    baselines = generative_baselines(train, test, NUM_COLORS, tokenizer_of(model).grid)
    neighbor = min(baselines.pop("left token"), baselines.pop("token above"))
    others = [f"{name} {nll:.3f}" for name, nll in baselines.items()]
    others.append(f"best single neighbor {neighbor:.3f}")
    name = "held-out loss, nats per pixel"
    return model, [
        Measurement("parameters", f"{model.count_params():,}"),
        Measurement(name, f"{loss:.3f}", ", ".join(others)),
    ]


def draw_pictures(model: ImageGPT, test: LabeledImages, folder: pathlib.Path, seed: int) -> None:
    """Writes completions.png, with a test image of each class per row, and samples.png."""
    heading("Completing and sampling")
    one_of_each = test.per_class(1, seed)
    images = one_of_each.images[np.argsort(one_of_each.labels)]
    completions = model.generate(
        images, keep_rows=KEEP_ROWS, num_completions=SHOWN_COMPLETIONS, seed=seed
    )
    known = known_rows(IMAGE_SIZE, KEEP_ROWS)
    title = "Handwritten digits, completed from their first rows"
    sheet = completion_sheet(images, completions.images, known, title=title)
    save_png(sheet, folder / "completions.png")
    # The folder gets its name when it is complete, a minute or two later.
    path = folder / "completions.png"
    console.print(f"completions, to look at while the rest runs: {path}", soft_wrap=True)
    samples = model.sample(SAMPLES, seed=seed).images[:, 0]
    save_png(numbered_sheet(samples, "Sampled digits"), folder / "samples.png")


def finetuning(
    model: ImageGPT, digits: Digits, folder: pathlib.Path, seed: int
) -> tuple[ImageGPTClassifier, list[Measurement]]:
    """Fine-tunes with few and with all labels; returns the last classifier and accuracies."""
    measurements = []
    few = digits.train.per_class(FEW_LABELS, seed)
    for name, train, settings in (
        (f"{FEW_LABELS} labels per class", few, FINETUNING_WITH_FEW),
        (f"all {len(digits.train)} labels", digits.train, FINETUNING_WITH_ALL),
    ):
        heading(f"Fine-tuning with {name}")
        keras.utils.set_random_seed(seed)
        scratch = ImageGPT(model.config, tokenizer=model.tokenizer)
        settings = {**settings, "learning_rate": FINETUNING_RATE, "seed": seed}
        _, scratch_accuracy = classify(scratch, train, digits, "from scratch", settings)
        classifier, accuracy = classify(model, train, digits, "pre-trained", settings)
        raw = raw_pixel_accuracy(train, digits.validation, digits.test)
        others = f"from scratch {scratch_accuracy:.1%}, logistic regression on pixels {raw:.1%}"
        measurements.append(Measurement(f"test accuracy, {name}", f"{accuracy:.1%}", others))
    training = {"data": "scikit-learn digits", "labels": len(train), **settings}
    classifier.save_to_preset(folder / "classifier", training=training)
    return classifier, measurements


def classify(
    model: ImageGPT,
    train: LabeledImages,
    digits: Digits,
    description: str,
    settings: dict,
) -> tuple[ImageGPTClassifier, float]:
    """Fine-tunes `model` with L_GEN + L_CLF; returns the classifier and its test accuracy."""
    classifier = ImageGPTClassifier.from_preset(
        model, len(digits.class_names), class_names=digits.class_names
    )
    tokenizer = tokenizer_of(model)
    with ProgressBar(description, ("loss", "val_accuracy")) as bar:
        finetune(
            classifier,
            (tokenizer.tokenize(train.images), train.labels),
            (tokenizer.tokenize(digits.validation.images), digits.validation.labels),
            callbacks=[bar],
            verbose=0,
            **settings,
        )
    logits = classifier.predict(digits.test.images, verbose=0)
    return classifier, float((logits.argmax(axis=1) == digits.test.labels).mean())


def serve_and_ask(
    model: ImageGPT,
    classifier: ImageGPTClassifier,
    test: LabeledImages,
    folder: pathlib.Path,
    seed: int,
) -> list[Measurement]:
    """Exports the models, asks a server for answers, and compares them with those in process."""
    heading("Exporting a SavedModel and serving it over gRPC")
    training = [read_training(folder / name) for name in ("pretrained", "classifier")]
    export([model, classifier], folder / "saved_model", training=training)
    images = test.images[:SERVED_IMAGES]
    with Server(folder / "saved_model") as server, Client(server.address) as client:
        console.print(f"server at {server.address}")
        remote = client.complete(
            images, keep_rows=KEEP_ROWS, num_completions=SHOWN_COMPLETIONS, seed=seed
        )
        remote_classes = client.classify(images)
    local = model.generate(
        images, keep_rows=KEEP_ROWS, num_completions=SHOWN_COMPLETIONS, seed=seed
    )
    local_logits = classifier.predict(images, verbose=0)
    check_equal(remote, local, remote_classes, local_logits)
    count = len(images) * SHOWN_COMPLETIONS
    right = sum(
        name == classifier.class_names[label]
        for name, label in zip(remote_classes.best, test.labels, strict=False)
    )
    return [
        Measurement("completions over gRPC", f"{count} of {count} equal to those in process"),
        Measurement(
            "classes over gRPC", f"{right} of {len(images)} right", "equal to those in process"
        ),
    ]


def check_equal(
    remote: Completions, local: Completions, classes: Classifications, logits: np.ndarray
) -> None:
    """Raises `RuntimeError` if the server's answers differ from those in process."""
    different = np.any(remote.images != local.images, axis=(2, 3, 4)).sum()
    if different:
        raise RuntimeError(f"{different} completions differ between server and process")
    deviation = np.abs(classes.logits - logits).max()
    if deviation > 1e-4:
        raise RuntimeError(f"class logits differ by {deviation} between server and process")


def heading(text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def show(measurements: list[Measurement], output: pathlib.Path) -> None:
    """Prints the results as a table, and the paths of all outputs."""
    table = Table(title="Results", title_justify="left")
    for column in ("metric", "value", "comparison"):
        table.add_column(column, overflow="fold")
    for measurement in measurements:
        table.add_row(measurement.name, measurement.value, measurement.comparison)
    console.print()
    console.print(table)
    written = {
        "completions.png": "completions of test images",
        "samples.png": "new images",
        "pretrained": "the pre-trained model",
        "classifier": "the classifier fine-tuned on all labels",
        "saved_model": "the SavedModel for TensorFlow Serving",
        MEASUREMENTS: "the table above",
    }
    for name, what in written.items():
        console.print(f"{output / name}  {what}", soft_wrap=True)
    console.print(f"\nigpt demo {output / 'saved_model'}  completes images in the browser")
