"""Draws the figures so that they can be read without color.

Series differ in marker and line style, bars in hatching. Only matplotlib's object interface is
used, without global state.
"""

import functools
import io
from collections.abc import Callable, Sequence

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy

from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.report.collect import LossPanel, ObjectivePanel, baseline_label, label, short
from igpt_keras.report.curves import CurvePanel, Points
from igpt_keras.report.curves import name_of as curve_name
from igpt_keras.report.runs import Probe

STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "0.88",
    "hatch.linewidth": 0.8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    # Names of runs and data sets may contain a dollar sign.
    "text.parse_math": False,
}
DPI = 150
WIDTH = 6.5
PANEL_HEIGHT = 4.2  # inches, with title and names of the axes
LABEL_HEIGHT = 0.2
# Characters of the legend's font in a line, and what the sample of a line takes of them.
LEGEND_LENGTH = 92
HANDLE_LENGTH = 10
LEGEND_OFFSET = -42  # points, below the names of the horizontal axis
LABEL_LENGTH = 44
TITLE_LENGTH = 80
CLASS_LENGTH = 20
NAMED_CLASSES = 20  # the most whose names and numbers a matrix shows
CURVES_PER_PANEL = 8
# 7 and 4 have no common factor: 28 different pairs.
MARKERS = "os^DvPX"
LINE_STYLES = ("-", "--", "-.", ":")
# The palette of Okabe and Ito, so ordered that its two blues have different line styles.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BASELINE_STYLES = ((0, (1, 2)), (0, (6, 2)), (0, (6, 2, 1, 2)), (0, (2, 4)))
BARS = {"probe": ("linear probe", "0.9", "///"), "fine_tuned": ("fine-tuned", "0.55", "...")}


def styled(draw: Callable) -> Callable:
    """Decorates `draw` with the style of all figures."""

    @functools.wraps(draw)
    def drawn(*arguments, **keywords):
        with matplotlib.style.context(["default", STYLE]):
            return draw(*arguments, **keywords)

    return drawn


@styled
def png(figure: Figure) -> bytes:
    """Returns the figure as a PNG file, cropped to its content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.1)
    return buffer.getvalue()


@styled
def accuracy_by_layer(
    curves: Sequence[Probe], baselines: Sequence[Probe], title: str = ""
) -> Figure:
    """Draws Figure 2: a curve for each probe, its best layer ringed; baselines as level lines."""
    starts = range(0, len(curves), CURVES_PER_PANEL)
    panels = [curves[start : start + CURVES_PER_PANEL] for start in starts]
    figure, all_axes = stacked_axes([len(panel) + len(baselines) for panel in panels])
    for axes, panel in zip(all_axes, panels, strict=True):
        for index, curve in enumerate(panel):
            percent = [100 * accuracy for accuracy in curve.layers.values()]
            assert curve.best_layer is not None, "a baseline is not a curve"
            best, style = 100 * curve.layers[curve.best_layer], line_style(index)
            text = f"{shortened(label(curve.model))}: {best:.1f} at layer {curve.best_layer}"
            axes.plot([*curve.layers], percent, label=text, **style)
            ring_point(axes, curve.best_layer, best, style)
        for index, baseline in enumerate(baselines):
            percent = 100 * baseline.test_accuracy
            dashes = BASELINE_STYLES[index % len(BASELINE_STYLES)]
            text = f"{baseline_label(baseline)}: {percent:.1f}"
            axes.axhline(percent, label=text, color="0.35", linestyle=dashes, linewidth=1.2)
        axes.set(xlabel="layer (0: embeddings)", ylabel="test accuracy, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        explain(axes, title)
    return figure


@styled
def accuracy_by_loss(panels: Sequence[LossPanel]) -> Figure:
    """Draws Figure 3: a line for each pre-training run, its snapshots marked with their steps.

    The marker shows the size of the model, the line style the run among those of its size.
    """
    figure, all_axes = stacked_axes([len(panel.tracks) for panel in panels])
    sizes = list(dict.fromkeys(t[0].model.config for panel in panels for t in panel.tracks))
    for axes, panel in zip(all_axes, panels, strict=True):
        for track, style in zip(panel.tracks, _track_styles(panel.tracks, sizes), strict=True):
            points = [(p.model.validation_loss, 100 * p.test_accuracy) for p in track]
            axes.plot(*zip(*points, strict=True), label=shortened(label(track[0].model)), **style)
            for probe, point in zip(track, points, strict=True):
                # Lines rise to the right, so the lower right is free.
                step = short(probe.model.step or 0)
                axes.annotate(step, point, (4, -9), textcoords="offset points", fontsize=8)
        axes.set(
            xlabel="validation loss, nats per token (lower to the right)",
            ylabel="best-layer test accuracy, %",
        )
        axes.margins(0.08, 0.12)
        axes.invert_xaxis()
        explain(axes, panel.title)
    return figure


@styled
def training_curves(panels: Sequence[CurvePanel], name: str, scale: float = 1.0) -> Figure:
    """Draws a metric by step: of validation images with markers, of training images dotted.

    Args:
        panels: Trainings with comparable metrics.
        name: Name and unit of the metric.
        scale: Factor of its values.
    """
    parts = [
        (panel.title, panel.curves[start : start + CURVES_PER_PANEL])
        for panel in panels
        for start in range(0, len(panel.curves), CURVES_PER_PANEL)
    ]
    figure, all_axes = stacked_axes([len(curves) + 1 for _, curves in parts])
    for axes, (title, curves) in zip(all_axes, parts, strict=True):
        for index, curve in enumerate(curves):
            style = line_style(index)
            steps, values = _scaled(curve.training, scale)
            axes.plot(steps, values, ":", color=style["color"], linewidth=1)
            steps, values = _scaled(curve.validation, scale)
            text = f"{shortened(curve_name(curve))}, validation"
            axes.plot(steps, values, label=text, **{**style, "linestyle": "-"})
        if any(curve.training for curve in curves):
            axes.plot([], [], ":", color="0.3", linewidth=1, label="training")
        axes.set(xlabel="step", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        explain(axes, title)
    return figure


def _scaled(points: Points, scale: float) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [scale * value for _, value in points]


@styled
def before_and_after(panels: Sequence[ObjectivePanel]) -> Figure:
    """Draws Figure 4: AR and BERT, linear probe and fine-tuned, each bar with its value."""
    figure, all_axes = stacked_axes([0] * len(panels))
    for axes, panel in zip(all_axes, panels, strict=True):
        for offset, (kind, (text, color, hatch)) in zip((-0.2, 0.2), BARS.items(), strict=True):
            values = [getattr(bars, kind) for bars in panel.bars]
            drawn = axes.bar(
                np.arange(len(values)) + offset,
                [0 if value is None else 100 * value for value in values],
                width=0.38,
                label=text,
                color=color,
                edgecolor="black",
                hatch=hatch,
            )
            names = ["not run" if value is None else f"{100 * value:.1f}" for value in values]
            axes.bar_label(drawn, names, padding=2)
        axes.set_xticks(range(len(panel.bars)), [bars.label for bars in panel.bars])
        axes.set_ylabel("test accuracy, %")
        axes.margins(y=0.12)
        axes.grid(axis="x", visible=False)
        explain(axes, panel.title)
    return figure


def stacked_axes(labels: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Returns a figure with panels below each other, which share their vertical axis.

    Args:
        labels: Number of lines of each legend, which the height of its panel has room for.
    """
    heights = [PANEL_HEIGHT + LABEL_HEIGHT * number for number in labels]
    layout = ConstrainedLayoutEngine(hspace=0.08)
    figure = Figure(figsize=(WIDTH, sum(heights)), layout=layout)
    axes = figure.subplots(len(labels), sharey=True, squeeze=False)
    return figure, list(axes[:, 0])


@styled
def confusion_matrix(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draws numbers of images, a row for each class and a column for each prediction.

    Args:
        matrix: int [C, C].
        class_names: C names, which stand at the axes if there are few.
    """
    figure = Figure(figsize=(WIDTH, WIDTH), layout="constrained")
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    axes.grid(False)
    axes.set(xlabel="predicted class", ylabel="class")
    if len(class_names) <= NAMED_CLASSES:
        names = [shortened(name, CLASS_LENGTH) for name in class_names]
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(len(names)), names)
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                text = f"{count}"
                axes.text(column, row, text, color=color, ha="center", va="center", fontsize=8)
    return figure


def line_style(index: int) -> dict:
    """Returns arguments of `Axes.plot` that distinguish a series, with and without color."""
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": LINE_STYLES[index % len(LINE_STYLES)],
        "linewidth": 1.6,
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 6,
    }


def ring_point(axes: Axes, x: float, y: float, style: dict) -> None:
    """Draws a ring around a point of a series with this style."""
    axes.scatter([x], [y], s=150, facecolors="none", edgecolors=style["color"], zorder=3)


def explain(axes: Axes, title: str, legend_title: str | None = None) -> None:
    """Adds a title, and a legend below the axes; with a legend, the axes are named already."""
    axes.set_title(shortened(title, TITLE_LENGTH), loc="left", fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure(root=True)
    below = offset_copy(axes.transAxes, figure, 0, LEGEND_OFFSET, units="points")
    axes.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=below,
        borderaxespad=0,
        handlelength=3.5,
        ncols=max(1, LEGEND_LENGTH // (max(map(len, labels), default=0) + HANDLE_LENGTH)),
        title=legend_title,
        alignment="left",
    )


def shortened(text: str, length: int = LABEL_LENGTH) -> str:
    """Returns at most `length` characters of a text, without its middle: names differ at ends."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _track_styles(tracks: Sequence[Sequence[Probe]], sizes: Sequence[ImageGPTConfig]) -> list[dict]:
    seen = [0] * len(sizes)
    styles = []
    for track in tracks:
        size = sizes.index(track[0].model.config)
        line = LINE_STYLES[seen[size] % len(LINE_STYLES)]
        styles.append({**line_style(size), "linestyle": line})
        seen[size] += 1
    return styles
