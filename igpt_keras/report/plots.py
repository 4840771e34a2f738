"""The figures, drawn to be read without color.

Series differ in marker and line style, bars in hatching, and each carries its name beside
it. Only figures of matplotlib's object interface: no global state.
"""

import functools
import io
import itertools
from collections.abc import Callable, Sequence

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from sklearn.isotonic import isotonic_regression

from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.report.collect import (
    Curve,
    Level,
    LossPanel,
    ObjectivePanel,
    Track,
    short,
)

STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "0.88",
    "hatch.linewidth": 0.8,
    # Names of runs and data sets may hold a dollar sign.
    "text.parse_math": False,
}
DPI = 150
WIDTH = 6.5
LABEL_HEIGHT = 0.2  # inches
LABEL_LENGTH = 44
CURVES_PER_PANEL = 8
# 7 and 4 have no common factor: 28 pairs before one comes again.
MARKERS = "os^DvPX"
LINE_STYLES = ("-", "--", "-.", ":")
# Okabe and Ito's, dark ones first.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
BASELINE_STYLES = ((0, (1, 2)), (0, (6, 2)), (0, (6, 2, 1, 2)), (0, (2, 4)))
BARS = {"probe": ("linear probe", "0.9", "///"), "fine_tuned": ("fine-tuned", "0.55", "...")}


def styled(draw: Callable) -> Callable:
    """`draw` with the style of all figures."""

    @functools.wraps(draw)
    def drawn(*arguments, **keywords):
        with matplotlib.style.context(["default", STYLE]):
            return draw(*arguments, **keywords)

    return drawn


@styled
def png(figure: Figure) -> bytes:
    """The figure as a PNG file, cropped to what it shows."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.1)
    return buffer.getvalue()


@styled
def accuracy_by_layer(curves: Sequence[Curve], levels: Sequence[Level]) -> Figure:
    """Figure 2: a curve for each probe, its best layer ringed; baselines as level lines."""
    panels = [
        curves[start : start + CURVES_PER_PANEL]
        for start in range(0, len(curves), CURVES_PER_PANEL)
    ]
    figure, all_axes = stacked_axes([len(panel) + len(levels) for panel in panels])
    names = []
    for axes, panel in zip(all_axes, panels, strict=True):
        names.append([])
        for index, curve in enumerate(panel):
            percent = [100 * accuracy for accuracy in curve.accuracies]
            style = line_style(index)
            axes.plot(curve.layers, percent, **style)
            best = percent[curve.layers.index(curve.best)]
            axes.scatter(
                [curve.best], [best], s=150, facecolors="none", edgecolors=style["color"], zorder=3
            )
            text = f"{_shortened(curve.label)}: {best:.1f} at layer {curve.best}"
            names[-1].append((text, curve.layers[-1], percent[-1], style))
        for index, level in enumerate(levels):
            percent = 100 * level.accuracy
            dashes = BASELINE_STYLES[index % len(BASELINE_STYLES)]
            style = {"color": "0.35", "linestyle": dashes, "linewidth": 1.2}
            axes.axhline(percent, **style)
            names[-1].append((f"{_shortened(level.label)}: {percent:.1f}", None, percent, style))
        axes.set(xlabel="layer (0: embeddings)", ylabel="test accuracy, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_lines(all_axes, names)
    return figure


@styled
def accuracy_by_loss(panels: Sequence[LossPanel]) -> Figure:
    """Figure 3: a line for each pre-training run, its snapshots marked with their steps.

    The marker tells the size of the model, the line style the run among those of its size.
    """
    figure, all_axes = stacked_axes([len(panel.tracks) for panel in panels])
    sizes = list(dict.fromkeys(track.config for panel in panels for track in panel.tracks))
    names, points = [], []
    for axes, panel in zip(all_axes, panels, strict=True):
        names.append([])
        points.append([])
        for track, style in zip(panel.tracks, _track_styles(panel.tracks, sizes), strict=True):
            losses = [point.validation_loss for point in track.snapshots]
            percent = [100 * point.accuracy for point in track.snapshots]
            axes.plot(losses, percent, **style)
            points[-1] += zip(
                losses, percent, (short(point.step) for point in track.snapshots), strict=True
            )
            names[-1].append((_shortened(track.label), losses[-1], percent[-1], style))
        axes.set_title(_shortened(panel.title, 80), loc="left", fontsize=10)
        axes.set(
            xlabel="validation loss, nats per pixel (lower to the right)",
            ylabel="best-layer test accuracy, %",
        )
        axes.margins(0.08, 0.12)
        axes.invert_xaxis()
    _name_lines(all_axes, names)
    for axes, of_axes in zip(all_axes, points, strict=True):
        _name_points(axes, of_axes)
    return figure


@styled
def before_and_after(panels: Sequence[ObjectivePanel]) -> Figure:
    """Figure 4: AR beside BERT, linear probe and fine-tuned, each bar with its value."""
    figure, all_axes = stacked_axes([0] * len(panels))
    for axes, panel in zip(all_axes, panels, strict=True):
        for offset, (kind, (text, color, hatch)) in zip((-0.2, 0.2), BARS.items(), strict=True):
            values = [getattr(bars, kind) for bars in panel.bars]
            heights = [0 if value is None else 100 * value for value in values]
            drawn = axes.bar(
                np.arange(len(values)) + offset,
                heights,
                width=0.38,
                label=text,
                color=color,
                edgecolor="black",
                hatch=hatch,
            )
            names = ["not run" if value is None else f"{100 * value:.1f}" for value in values]
            axes.bar_label(drawn, names, padding=2)
        axes.set_title(_shortened(panel.title, 80), loc="left", fontsize=10)
        axes.set_xticks(range(len(panel.bars)), [bars.label for bars in panel.bars])
        axes.set_ylabel("test accuracy, %")
        axes.margins(y=0.12)
        axes.grid(axis="x", visible=False)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handleheight=1.5)
    return figure


def stacked_axes(labels: Sequence[int]) -> tuple[Figure, list[Axes]]:
    """A figure with one panel below the other, each high enough for its number of labels.

    All have the same vertical axis.
    """
    heights = [max(3.2, 0.5 + LABEL_HEIGHT * number) for number in labels]
    gap = 0.9
    total = sum(heights) + gap * (len(heights) - 1)
    figure = Figure(figsize=(WIDTH, total))
    all_axes = []
    # From the top down.
    bottoms = itertools.accumulate(heights, lambda bottom, height: bottom + height + gap)
    for bottom, height in zip(bottoms, heights, strict=True):
        place = (0, (total - bottom) / total, 1, height / total)
        all_axes.append(figure.add_axes(place, sharey=all_axes[0] if all_axes else None))
    return figure, all_axes


def line_style(index: int) -> dict:
    """Arguments of `Axes.plot` that tell a series from others, with and without color."""
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": LINE_STYLES[index % len(LINE_STYLES)],
        "linewidth": 1.6,
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 6,
    }


def _track_styles(tracks: Sequence[Track], sizes: Sequence[ImageGPTConfig]) -> list[dict]:
    seen = [0] * len(sizes)
    styles = []
    for track in tracks:
        size = sizes.index(track.config)
        style = line_style(size)
        style["linestyle"] = LINE_STYLES[seen[size] % len(LINE_STYLES)]
        seen[size] += 1
        styles.append(style)
    return styles


def _name_lines(
    all_axes: Sequence[Axes],
    names: Sequence[Sequence[tuple[str, float | None, float, dict]]],
) -> None:
    """Puts the name of each line right of its axes, with a sample and a thin line to its end.

    Args:
        all_axes: axes whose lines are all drawn; their limits stay as they are.
        names: for each axes text, x and y of the line's end in data (x None for the right
            edge), style.
    """
    low, high = all_axes[0].get_ylim()
    for axes, of_axes in zip(all_axes, names, strict=True):
        axes.set_ylim(low, high)
        axes.set_xlim(axes.get_xlim())
        height = axes.get_position().height * axes.figure.get_figheight()
        places = _spread(
            [(y - low) / (high - low) for _, _, y, _ in of_axes], LABEL_HEIGHT / height
        )
        for (text, x, y, style), place in zip(of_axes, places, strict=True):
            axes.annotate(
                "",
                (1, y) if x is None else (x, y),
                xytext=(1.05, place),
                xycoords=axes.get_yaxis_transform() if x is None else "data",
                textcoords="axes fraction",
                arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.7, "shrinkB": 5},
                annotation_clip=False,
            )
            sample = Line2D([1.05, 1.085, 1.12], [place] * 3, markevery=[1], **style)
            sample.set_transform(axes.transAxes)
            axes.figure.add_artist(sample)
            axes.text(1.13, place, text, transform=axes.transAxes, va="center", fontsize=9)


def _name_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Puts a text beside each point (x, y, text), where it covers least of what is there.

    The axes' limits are final.
    """
    marker = 5 * axes.figure.dpi / 72
    taken = [
        Bbox.from_bounds(x - marker / 2, y - marker / 2, marker, marker)
        for x, y in axes.transData.transform([(x, y) for x, y, _ in points])
    ]
    for x, y, text in points:
        placed = [
            axes.annotate(
                text,
                (x, y),
                xytext=(3 * right, 4 * up),
                textcoords="offset points",
                ha="left" if right > 0 else "right",
                va="bottom" if up > 0 else "top",
                fontsize=8,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )
            # Lines rise to the right, so the lower right is free of the point's own.
            for right, up in ((1, -1), (-1, 1), (1, 1), (-1, -1))
        ]
        boxes = [annotation.get_window_extent() for annotation in placed]
        best = min(range(len(boxes)), key=lambda index: _covered(boxes[index], taken))
        taken.append(boxes[best])
        for index, annotation in enumerate(placed):
            if index != best:
                annotation.remove()


def _covered(box: Bbox, others: Sequence[Bbox]) -> float:
    """The area that `box` has in common with each of `others`, added up."""
    common = (Bbox.intersection(box, other) for other in others)
    return sum(overlap.width * overlap.height for overlap in common if overlap is not None)


def _spread(places: Sequence[float], gap: float) -> np.ndarray:
    """Places in [0, 1] at least `gap` apart, in their order, moved as little as can be."""
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    # Increasing by `gap` at least is not decreasing once the steps are taken off.
    moved = isotonic_regression(
        np.asarray(places)[order] - steps, y_min=0, y_max=max(0, 1 - gap * (len(places) - 1))
    )
    spread = np.empty(len(places))
    spread[order] = moved + steps
    return spread


def _shortened(text: str, length: int = LABEL_LENGTH) -> str:
    """At most `length` characters; the middle goes, for names differ at their ends."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
