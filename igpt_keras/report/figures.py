"""The figures with their captions, one for each data set that was classified."""

import io
import pathlib
from collections.abc import Callable, Sequence

from PIL import Image

from igpt_keras.errors import InputError
from igpt_keras.report import plots
from igpt_keras.report.collect import (
    baseline_label,
    label,
    layer_curves,
    loss_panels,
    objective_panels,
    with_origins,
)
from igpt_keras.report.curves import CurvePanel, accuracy_curves, loss_curves, name_of
from igpt_keras.report.curves import probe_curves as probe_curves_of
from igpt_keras.report.page import Exhibit, Picture, Table, nll, percent
from igpt_keras.report.runs import Findings, Losses

NOTHING_CHOSEN = "Accuracies are of the test split, on which nothing was chosen."
PICTURES = {
    "completions.png": (
        "Completions",
        "images whose first rows were kept, with the model's completions of them",
    ),
    "samples.png": ("Samples", "images that the model sampled unconditionally"),
}


def pretraining_curves(findings: Findings) -> list[Exhibit]:
    """Returns the losses during pre-training."""
    caption = (
        "Generative loss in nats per token during pre-training. A point of a dotted line is the "
        "mean over the steps since the one before; markers are losses of the validation images."
    )
    panels = loss_curves(findings)
    labels = ("Losses by step", "pre-training", "loss, nats per token")
    return _curves(*labels, nll, panels, caption, findings)


def probe_curves(findings: Findings) -> list[Exhibit]:
    """Returns the accuracies of probes during pre-training."""
    caption = (
        "Accuracy in percent of a ridge probe during pre-training, fitted to the features of one "
        "layer at every evaluation. Accuracies are of the validation images, on which the weight "
        "decay was chosen."
    )
    panels = probe_curves_of(findings)
    labels = ("Probes by step", "probe", "accuracy, %")
    return _curves(*labels, percent, panels, caption, findings)


def fine_tuning_curves(findings: Findings) -> list[Exhibit]:
    """Returns the accuracies during fine-tuning."""
    caption = (
        "Accuracy in percent during fine-tuning. A point of a dotted line is the mean over the "
        "steps since the one before; markers are accuracies of the validation images, of which "
        "the highest chose the epoch."
    )
    panels = accuracy_curves(findings)
    labels = ("Accuracy by step", "fine-tuning", "accuracy, %")
    return _curves(*labels, percent, panels, caption, findings)


def _curves(
    heading: str,
    kind: str,
    name: str,
    text: Callable[[float], str],
    panels: Sequence[CurvePanel],
    caption: str,
    findings: Findings,
) -> list[Exhibit]:
    """Returns one figure of all trainings of a kind; none without a history."""
    if not panels:
        return []
    curves = [curve for panel in panels for curve in panel.curves]
    rows = [(name_of(c), str(step), text(value)) for c in curves for step, value in c.validation]
    table = Table(("run", "step", f"validation {name}"), tuple(rows))
    scale = 100 if text is percent else 1
    picture = Picture(
        f"{kind}-curves.png",
        plots.png(plots.training_curves(panels, name, scale)),
        f"Line plot: {name}, by step, a line for each run.",
    )
    runs = with_origins((curve.entry.run for curve in curves), findings)
    return [Exhibit(heading, picture, caption, runs, table)]


def accuracy_by_layer(findings: Findings) -> list[Exhibit]:
    """Returns the paper's Figure 2."""
    return _for_each_data_set(findings, _layers)


def accuracy_by_loss(findings: Findings) -> list[Exhibit]:
    """Returns the paper's Figure 3."""
    return _for_each_data_set(findings, _losses)


def before_and_after(findings: Findings) -> list[Exhibit]:
    """Returns the paper's Figure 4."""
    return _for_each_data_set(findings, _objectives)


def _for_each_data_set(
    findings: Findings, draw: Callable[[Findings, str, int], Exhibit | None]
) -> list[Exhibit]:
    measured = (*findings.probes, *findings.fine_tunings)
    exhibits: list[Exhibit] = []
    for data_set in dict.fromkeys(entry.data_set for entry in measured):
        exhibit = draw(findings, data_set, len(exhibits) + 1)
        if exhibit is not None:
            exhibits.append(exhibit)
    return exhibits


def _layers(findings: Findings, data_set: str, number: int) -> Exhibit | None:
    curves, baselines = layer_curves(findings, data_set)
    if not curves:
        return None
    title = f"Linear probes on {data_set}"
    caption = (
        f"{title}: a logistic regression on the features of each layer, from 0 (the embeddings) "
        "to the last (the final states), for the last probed step of each pre-training run. "
        "Validation chose the regularization or learning rate of each layer, and the ringed "
        f"layer. {NOTHING_CHOSEN} Horizontal lines are logistic regressions on the input itself. "
        "In the paper accuracy peaks in the middle layers: the last layer of iGPT-L is 2.4 points "
        "below the best on CIFAR-10."
    )
    layers = sorted({layer for curve in curves for layer in curve.layers})
    rows = [(str(n), *(percent(curve.layers.get(n)) for curve in curves)) for n in layers]
    rows += [(baseline_label(b), *[percent(b.test_accuracy)] * len(curves)) for b in baselines]
    table = Table(("layer", *(label(curve.model) for curve in curves)), tuple(rows))
    picture = Picture(
        f"accuracy-by-layer-{number}.png",
        plots.png(plots.accuracy_by_layer(curves, baselines, title)),
        f"Line plot: test accuracy by layer on {data_set}, a line for each model.",
    )
    runs = with_origins((probe.run for probe in (*curves, *baselines)), findings)
    return Exhibit(data_set, picture, caption, runs, table)


def _losses(findings: Findings, data_set: str, number: int) -> Exhibit | None:
    panels = loss_panels(findings, data_set)
    if not panels:
        return None
    caption = (
        f"Linear probe accuracy on {data_set} against the generative validation loss of the "
        "probed snapshot. Lines join the snapshots of a run in order of step; the marker shows "
        "the size of the model. Losses are comparable within a panel: one objective, "
        "pre-training data set, resolution and palette size. Validation chose the probe's layer "
        f"and regularization or learning rate. {NOTHING_CHOSEN} In the paper, probes improve as "
        "the validation loss falls, and at equal loss the larger model has the better probe."
    )
    points = [(panel.title, p) for panel in panels for track in panel.tracks for p in track]
    rows = (
        (
            *(title, label(p.model), str(p.model.step or 0), nll(p.model.validation_loss)),
            *(str(p.best_layer), percent(p.test_accuracy)),
        )
        for title, p in points
    )
    header = ("panel", "run", "step", "validation loss", "best layer", "test accuracy, %")
    picture = Picture(
        f"accuracy-by-loss-{number}.png",
        plots.png(plots.accuracy_by_loss(panels)),
        f"Line plot: test accuracy on {data_set} against validation loss, a line for each run.",
    )
    runs = with_origins((probe.run for _, probe in points), findings)
    return Exhibit(data_set, picture, caption, runs, Table(header, tuple(rows)))


def _objectives(findings: Findings, data_set: str, number: int) -> Exhibit | None:
    panels = objective_panels(findings, data_set)
    if not panels:
        return None
    caption = (
        f"Accuracy on {data_set} of models of equal size that were pre-trained on the same data "
        "with either objective: linear probe of the best layer, and fine-tuned with all labels. "
        "Validation chose the probe's layer and regularization or learning rate, the epoch of "
        "fine-tuning, and the fine-tuning shown; the probe is that of the model it started from, "
        f"or the best one where that was not probed. {NOTHING_CHOSEN} BERT's inputs are masked: "
        "with one mask, or with the vote of several. In the paper (iGPT-L, 32×32) AR's probe is "
        "more than 1 point better on CIFAR-10; fine-tuned, AR has 99.0 and BERT 98.6."
    )
    rows = (
        (panel.title, bars.label, percent(bars.probe), percent(bars.fine_tuned))
        for panel in panels
        for bars in panel.bars
    )
    header = ("models", "objective", "linear probe, %", "fine-tuned, %")
    picture = Picture(
        f"ar-against-bert-{number}.png",
        plots.png(plots.before_and_after(panels)),
        f"Bar chart: test accuracy on {data_set} of AR and BERT, probed and fine-tuned.",
    )
    runs = with_origins((run for panel in panels for run in panel.runs), findings)
    return Exhibit(data_set, picture, caption, runs, Table(header, tuple(rows)))


def pictures(findings: Findings) -> list[Exhibit]:
    """Returns the completions and samples that pre-training runs drew.

    Raises:
        InputError: A file is not a PNG picture.
    """
    numbers = dict.fromkeys(PICTURES, 0)
    exhibits = []
    for entry in findings.pretrainings:
        for file in PICTURES:
            path = entry.run.folder / file
            if path.is_file():
                numbers[file] += 1
                exhibits.append(_picture(entry, path, numbers[file]))
    return exhibits


def _picture(entry: Losses, path: pathlib.Path, number: int) -> Exhibit:
    name, content = PICTURES[path.name]
    picture = Picture(f"{path.stem}-{number}.png", read_png(path), f"Contact sheet: {content}.")
    caption = f"Model {label(entry.model)}, pre-trained on {entry.data_set}: {content}."
    return Exhibit(f"{name}: {entry.run.name}", picture, caption, (entry.run,))


def read_png(path: pathlib.Path) -> bytes:
    """Returns the content of a PNG file.

    Raises:
        InputError: The file is not a PNG picture.
    """
    png = path.read_bytes()
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            image.verify()
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path} is not a PNG picture: {error}") from None
    return png
