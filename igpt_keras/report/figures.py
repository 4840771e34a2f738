"""The figures with their captions, one for each data set that was classified."""

import io
from collections.abc import Callable

from PIL import Image

from igpt_keras.errors import InputError
from igpt_keras.report import plots
from igpt_keras.report.collect import (
    Curve,
    Level,
    LossPanel,
    ObjectivePanel,
    data_sets,
    label,
    layer_curves,
    loss_panels,
    objective_panels,
    with_origins,
)
from igpt_keras.report.page import Exhibit, Picture, Table, nll, percent
from igpt_keras.report.runs import Findings, Pretraining

NOTHING_CHOSEN = "Accuracies are of the test split, on which nothing was chosen."
PICTURES = {
    "completions.png": (
        "Completions",
        "images whose first rows were kept, and the model's completions of them side by side",
    ),
    "samples.png": ("Samples", "images that the model drew from nothing, without a class"),
}


def accuracy_by_layer(findings: Findings) -> list[Exhibit]:
    """The paper's Figure 2."""
    return _for_each_data_set(findings, _layers)


def accuracy_by_loss(findings: Findings) -> list[Exhibit]:
    """The paper's Figure 3."""
    return _for_each_data_set(findings, _checkpoints)


def before_and_after(findings: Findings) -> list[Exhibit]:
    """The paper's Figure 4."""
    return _for_each_data_set(findings, _objectives)


def _for_each_data_set(
    findings: Findings, draw: Callable[[Findings, str, int], Exhibit | None]
) -> list[Exhibit]:
    exhibits: list[Exhibit] = []
    for data_set in data_sets(findings):
        exhibit = draw(findings, data_set, len(exhibits) + 1)
        if exhibit is not None:
            exhibits.append(exhibit)
    return exhibits


def _layers(findings: Findings, data_set: str, number: int) -> Exhibit | None:
    curves, levels = layer_curves(findings, data_set)
    if not curves:
        return None
    alt = f"Line plot of test accuracy by layer on {data_set}. " + " ".join(
        [_describe_curve(curve) for curve in curves]
        + [f"{level.label}: {percent(level.accuracy)}%." for level in levels]
    )
    caption = (
        f"Linear probes on {data_set}: a logistic regression on the features of each "
        "layer, from 0 (the embeddings) to the last (the final states). Of each "
        "pre-training run the last probed step is drawn. Chosen on validation: the "
        f"regularization or learning rate at each layer, and the ringed layer. "
        f"{NOTHING_CHOSEN} Level lines, where there are any, are logistic regression on "
        "the input itself. In the paper accuracy rises, peaks in the middle layers and "
        "falls towards the end: the last layer of iGPT-L loses 2.4 points on CIFAR-10."
    )
    picture = Picture(
        f"accuracy-by-layer-{number}.png",
        plots.png(plots.accuracy_by_layer(curves, levels)),
        alt,
    )
    runs = with_origins((line.run for line in (*curves, *levels)), findings)
    return Exhibit(data_set, picture, caption, runs, _layer_table(curves, levels))


def _describe_curve(curve: Curve) -> str:
    best = curve.accuracies[curve.layers.index(curve.best)]
    return (
        f"{curve.label}: {percent(curve.accuracies[0])}% at layer {curve.layers[0]}, "
        f"{percent(best)}% at layer {curve.best} (chosen on validation), "
        f"{percent(curve.accuracies[-1])}% at layer {curve.layers[-1]}."
    )


def _layer_table(curves: list[Curve], levels: list[Level]) -> Table:
    layers = sorted({layer for curve in curves for layer in curve.layers})
    rows = [
        (
            str(layer),
            *(
                percent(dict(zip(curve.layers, curve.accuracies, strict=True)).get(layer))
                for curve in curves
            ),
        )
        for layer in layers
    ]
    rows += [(level.label, *[percent(level.accuracy)] * len(curves)) for level in levels]
    return Table(("layer", *(curve.label for curve in curves)), tuple(rows))


def _checkpoints(findings: Findings, data_set: str, number: int) -> Exhibit | None:
    panels = loss_panels(findings, data_set)
    if not panels:
        return None
    tracks = [track for panel in panels for track in panel.tracks]
    alt = (
        f"Test accuracy of the best layer's probe on {data_set} against validation loss. "
    ) + " ".join(
        f"{track.label}: "
        + "; ".join(
            f"step {point.step}, {nll(point.validation_loss)} nats per pixel, "
            f"{percent(point.accuracy)}%"
            for point in track.snapshots
        )
        + "."
        for track in tracks
    )
    caption = (
        f"Linear probe accuracy on {data_set} against the generative validation loss of "
        "the probed snapshot. Points of one run are joined in order of step; the marker "
        "tells the size of the model. Each objective, pre-training data set, resolution "
        "and palette size has its own panel, for other losses are not comparable. Chosen "
        f"on validation: the probe's layer and regularization or learning rate. "
        f"{NOTHING_CHOSEN} In the paper lower validation loss goes with better probes, "
        "and at equal loss the larger model probes better."
    )
    picture = Picture(
        f"accuracy-by-loss-{number}.png", plots.png(plots.accuracy_by_loss(panels)), alt
    )
    runs = with_origins((point.run for track in tracks for point in track.snapshots), findings)
    return Exhibit(data_set, picture, caption, runs, _checkpoint_table(panels))


def _checkpoint_table(panels: list[LossPanel]) -> Table:
    rows = [
        (
            panel.title,
            track.label,
            str(point.step),
            nll(point.validation_loss),
            str(point.layer),
            percent(point.accuracy),
        )
        for panel in panels
        for track in panel.tracks
        for point in track.snapshots
    ]
    header = ("panel", "run", "step", "validation loss", "best layer", "test accuracy, %")
    return Table(header, tuple(rows))


def _objectives(findings: Findings, data_set: str, number: int) -> Exhibit | None:
    panels = objective_panels(findings, data_set)
    if not panels:
        return None
    table = _objective_table(panels)
    alt = f"Bar chart of test accuracy on {data_set}, AR beside BERT, in percent. " + " ".join(
        f"{size}, {bars}: linear probe {probe}, fine-tuned {fine_tuned}."
        for size, bars, probe, fine_tuned in table.rows
    )
    caption = (
        f"Accuracy on {data_set} of models of the same size, pre-trained on the same data "
        "with either objective: linear probe of the best layer, and fine-tuned whole on all "
        "labels (those on a few stand in the tables below). "
        "Chosen on validation: the probe's layer and regularization or learning rate, the "
        "epoch of fine-tuning, and of several fine-tunings the one that is drawn; the probe is "
        "that of the model it started from, or where there is none the best. "
        f"{NOTHING_CHOSEN} BERT's inputs are masked: with one mask, or the vote of several. "
        "In the paper (iGPT-L, 32×32) AR's probe is ahead by more than 1 point on "
        "CIFAR-10; fine-tuned, AR has 99.0 and BERT 98.6."
    )
    picture = Picture(
        f"ar-against-bert-{number}.png", plots.png(plots.before_and_after(panels)), alt
    )
    runs = with_origins((run for panel in panels for run in panel.runs), findings)
    return Exhibit(data_set, picture, caption, runs, table)


def _objective_table(panels: list[ObjectivePanel]) -> Table:
    rows = [
        (panel.title, bars.label, percent(bars.probe), percent(bars.fine_tuned))
        for panel in panels
        for bars in panel.bars
    ]
    return Table(("models", "objective", "linear probe, %", "fine-tuned, %"), tuple(rows))


def pictures(findings: Findings) -> list[Exhibit]:
    """Completions and samples as the pre-training runs drew them.

    Raises:
        InputError: a file that is no picture.
    """
    return [
        _picture(entry, file, number)
        for number, entry in enumerate(findings.pretrainings, start=1)
        for file in PICTURES
        if (entry.run.folder / file).is_file()
    ]


def _picture(entry: Pretraining, file: str, number: int) -> Exhibit:
    path = entry.run.folder / file
    name, what = PICTURES[file]
    png = path.read_bytes()
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            image.verify()
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path} is not a PNG picture: {error}") from None
    picture = Picture(f"{path.stem}-{number}.png", png, f"Contact sheet: {what}.")
    caption = f"Model {label(entry.model)}, pre-trained on {entry.data_set}: {what}."
    return Exhibit(f"{name}: {entry.run.name}", picture, caption, (entry.run,))
