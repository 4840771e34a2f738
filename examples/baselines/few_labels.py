"""Accuracy by number of labels on digits: for any methods, and for Image GPT."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import keras
import numpy as np

import igpt_keras
from igpt_keras.data.labeled import LabeledImages, per_class
from igpt_keras.evaluation.probe_features import LayerFeatures
from igpt_keras.evaluation.probe_methods import fit_probe
from igpt_keras.evaluation.probe_methods.lbfgs import LBFGS
from igpt_keras.evaluation.probes import ProbeSplits, best_layer
from igpt_keras.report.plots import explain, line_style, png, stacked_axes, styled
from igpt_keras.tokenizers.base import tokenizer_of
from igpt_keras.training import finetune, pretrain

LABELS = (1, 2, 5, 10, 50, None)  # of each class; None for all
IMAGE_GPT_EPOCHS, IMAGE_GPT_RATE = 20, 0.003
FINE_TUNING_EPOCHS, FINE_TUNING_PATIENCE, FINE_TUNING_IMAGES = 12, 4, 160
BATCH_SIZE = 32

Splits = tuple[LabeledImages, LabeledImages, LabeledImages]  # training, validation, test
# Names, and functions from the rows of the training images that have labels to test accuracy.
Methods = Iterable[tuple[str, Callable[[np.ndarray], float]]]
Accuracies = dict[str, list[float]]


def probe(features: list[LayerFeatures], rows: np.ndarray) -> float:
    """Returns the test accuracy of logistic regression on some rows of the training features."""
    train, validation, test = features
    return fit_probe(LBFGS(), ProbeSplits(train.take(rows), validation, test, 10)).accuracy(test)


def probe_of(features: Callable[[LabeledImages], np.ndarray], splits: Splits):
    """Returns `probe` of the features float32 [N, d] that a function gives of images."""
    return partial(probe, [LayerFeatures([features(s)], s.labels) for s in splits])


def train_image_gpt(splits: Splits, seed: int) -> igpt_keras.ImageGPT:
    """Returns an Image GPT that learned to predict the pixels of the training images."""
    palette = igpt_keras.ColorPalette.fit(splits[0].images, num_colors=16, seed=seed)
    keras.utils.set_random_seed(seed)
    config = igpt_keras.ImageGPTConfig(8, 16, hidden_dim=64, num_layers=4, num_heads=4)
    model = igpt_keras.ImageGPT(config, tokenizer=palette)
    tokens = [palette.tokenize(split.images) for split in splits[:2]]
    pretrain(
        model,
        *tokens,
        epochs=IMAGE_GPT_EPOCHS,
        batch_size=BATCH_SIZE,
        learning_rate=IMAGE_GPT_RATE,
        seed=seed,
        verbose=0,
    )
    return model


def image_gpt_features(model: igpt_keras.ImageGPT, splits: Splits) -> list[LayerFeatures]:
    """Returns the features of the layer that is best on validation with all labels."""
    layers = range(model.config.num_layers + 1)
    found = [
        LayerFeatures([model.features(s.images, layer) for layer in layers], s.labels)
        for s in splits
    ]
    every = ProbeSplits(*found, num_classes=10)
    best = best_layer({layer: fit_probe(LBFGS(), every.select([layer])) for layer in layers})
    return [features.select([best]) for features in found]


def fine_tune_image_gpt(
    model: igpt_keras.ImageGPT, splits: Splits, seed: int, rows: np.ndarray
) -> float:
    """Returns the test accuracy of a classifier that starts from the model."""
    keras.utils.set_random_seed(seed)
    classifier = igpt_keras.ImageGPTClassifier.from_preset(model, num_classes=10)
    tokenize = tokenizer_of(model).tokenize
    (x, labels), validation, (test, classes) = ((tokenize(s.images), s.labels) for s in splits)
    # Few labels are repeated, for as many steps.
    rows = np.resize(rows, max(len(rows), FINE_TUNING_IMAGES))
    finetune(
        classifier,
        (x[rows], labels[rows]),
        validation,
        epochs=FINE_TUNING_EPOCHS,
        patience=FINE_TUNING_PATIENCE,
        batch_size=8 if len(rows) == FINE_TUNING_IMAGES else BATCH_SIZE,
        learning_rate=IMAGE_GPT_RATE,
        seed=seed,
        verbose=0,
    )
    return float((classifier.predict(test, verbose=0).argmax(axis=1) == classes).mean())


def image_gpt_methods(splits: Splits, seed: int) -> Methods:
    """Yields the two uses of a pre-trained Image GPT."""
    model = train_image_gpt(splits, seed)
    yield "Image GPT, linear probe", partial(probe, image_gpt_features(model, splits))
    yield "Image GPT, fine-tuned", partial(fine_tune_image_gpt, model, splits, seed)


def measure(families: Iterable[Callable[[Splits, int], Methods]], seed: int) -> Accuracies:
    """Measures all methods with the same splits and labels.

    Args:
        families: Functions from splits and a seed to methods.
        seed: Decides the splits, which images have labels, and every random weight.

    Returns:
        Test accuracies by method, one for each of `LABELS`.
    """
    data = igpt_keras.open_data("digits", seed=seed)
    assert data.validation is not None and data.test is not None
    train, validation, test = (
        igpt_keras.data.read_images(split, 8) for split in (data.train, data.validation, data.test)
    )
    chosen = [
        np.arange(len(train)) if count is None else per_class(train.labels, count, seed)
        for count in LABELS
    ]
    accuracies, start = {}, time.process_time()
    for family in families:
        for name, accuracy in family((train, validation, test), seed):
            trained = time.process_time()
            accuracies[name] = [accuracy(rows) for rows in chosen]
            end = time.process_time()
            seconds = f"{trained - start:.0f} s of CPU before and {end - trained:.0f} s with labels"
            print(f"seed {seed}, {name}: {seconds}", flush=True)
            start = end
    return accuracies


def table(runs: Sequence[Accuracies]) -> str:
    """Returns means ± standard deviations over the runs in percent, as Markdown."""
    counts = [str(count or "all") for count in LABELS]
    lines = [f"| labels per class | {' | '.join(counts)} |", "| --- |" + " ---: |" * len(LABELS)]
    for name in runs[0]:
        values = 100 * np.array([run[name] for run in runs])
        pairs = zip(values.mean(axis=0), values.std(axis=0, ddof=1), strict=True)
        cells = [f"{mean:.1f} ± {deviation:.1f}" for mean, deviation in pairs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


@styled
def draw(runs: Sequence[Accuracies]) -> bytes:
    """Returns a PNG file with the mean accuracy of each method by number of labels."""
    figure, (axes,) = stacked_axes([len(runs[0])])
    for index, name in enumerate(runs[0]):
        means = 100 * np.mean([run[name] for run in runs], axis=0)
        axes.plot(range(len(LABELS)), means, label=name, **line_style(index))
    axes.set_xticks(range(len(LABELS)), [str(count or "all") for count in LABELS])
    axes.set(xlabel="labels per class", ylabel="test accuracy, %")
    explain(axes, f"Handwritten digits, mean of {len(runs)} seeds")
    return png(figure)
