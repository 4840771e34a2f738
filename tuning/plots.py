"""Plots of a search: final metric by learning rate, and the training loss of each trial."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

from keras_tuner import Objective
from keras_tuner.engine.trial import Trial, TrialStatus
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from igpt_keras.atomic import atomic_path
from igpt_keras.report.plots import explain, line_style, png, ring_point, stacked_axes, styled
from tuning.oracle import Search
from tuning.summary import rate_of
from tuning.tuner import LearningRateSearch

SCORES_FILE = "rates.png"
LOSSES_FILE = "losses{}.png"
MARGIN = 1.5
MARKERS_PER_LINE = 8
METRICS = {
    "val_loss": "final validation loss, nats per token",
    "val_accuracy": "final validation accuracy",
}


def draw(tuner: LearningRateSearch, folder: pathlib.Path) -> list[str]:
    """Writes `folder`/rates.png, and the training losses of each search whose trials kept them.

    Returns:
        The names of the files.
    """
    searches = tuner.oracle.searches()
    figures = {SCORES_FILE: score_by_rate(searches, tuner.oracle.objective)}
    for search in searches:
        name = "".join(f"-{value}" for value in search.others.values())
        figures[LOSSES_FILE.format(name)] = losses_by_step(tuner, search)
    drawn = {name: png(figure) for name, figure in figures.items() if figure is not None}
    for name, content in drawn.items():
        with atomic_path(folder / name, overwrite=True) as partial:
            partial.write_bytes(content)
    return list(drawn)


@styled
def score_by_rate(searches: Sequence[Search], objective: Objective) -> Figure:
    """Draws a line for each search, its best trial ringed; crosses are trials that diverged."""
    figure, (axes,) = stacked_axes([len(searches) + 1])
    scores: list[Any] = [t.score for search in searches for t in _completed(search)]
    lowest, highest = min(scores, default=0.0), max(scores, default=1.0)
    beyond = 0.12 * (highest - lowest or abs(highest) or 1.0)
    worst = lowest - beyond if objective.direction == "max" else highest + beyond
    for index, search in enumerate(searches):
        _draw_search(axes, search, worst, line_style(index))
    diverged = [t for search in searches for t in search.trials if _diverged(t)]
    if diverged:
        axes.plot([], [], "x", color="black", markersize=8, label="diverged")
    tried = sorted({rate_of(trial) for search in searches for trial in search.trials})
    axes.set_xscale("log")
    axes.set_xticks(tried, [f"{rate:g}" for rate in tried])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(tried[0] / MARGIN, tried[-1] * MARGIN)
    name = METRICS.get(objective.name, f"final {objective.name}")
    axes.set(xlabel="learning rate", ylabel=name)
    axes.margins(y=0.12)
    explain(axes, "Learning-rate search")
    return figure


def _draw_search(axes: Axes, search: Search, worst: float, style: dict) -> None:
    """Draws the scores of a search; a trial that diverged is at `worst`, on a dotted line."""
    label = title_of(search) or "best"
    if search.best is not None:
        score: Any = search.best.score
        ring_point(axes, rate_of(search.best), score, style)
        label += f": {score:.4g} at {rate_of(search.best):g}"
    completed = _completed(search)
    points: list[Any] = [(rate_of(t), t.score) for t in completed]
    axes.plot([x for x, _ in points], [y for _, y in points], label=label, **style)
    crosses = [(rate_of(t), worst) for t in search.trials if _diverged(t)]
    axes.plot(
        [x for x, _ in crosses], [y for _, y in crosses], "x", color=style["color"], markersize=8
    )
    for x, y in crosses:
        # To the nearest trial that did not diverge.
        near = min(points, key=lambda point: abs(math.log(point[0] / x)), default=(x, y))
        axes.plot([near[0], x], [near[1], y], ":", color=style["color"], linewidth=1)


def _completed(search: Search) -> list[Trial]:
    return [trial for trial in search.trials if trial.status == TrialStatus.COMPLETED]


def _diverged(trial: Trial) -> bool:
    return trial.status == TrialStatus.FAILED


@styled
def losses_by_step(tuner: LearningRateSearch, search: Search) -> Figure | None:
    """Draws the training loss of each trial of a search; None where no trial kept it."""
    figure, (axes,) = stacked_axes([len(search.trials) / 4])
    curves = [(trial, tuner.experiment.curve(tuner.run_folder(trial))) for trial in search.trials]
    curves = [(trial, curve) for trial, curve in curves if curve]
    if not curves:
        return None
    # What diverged may leave the axes, so that the rest stays readable.
    shown = [curve for trial, curve in curves if not _diverged(trial)] or [c for _, c in curves]
    lowest = min(loss for curve in shown for _, loss in curve)
    highest = max(curve[0][1] for curve in shown)
    margin = 0.05 * (highest - lowest or 1.0)
    axes.set_ylim(lowest - margin, highest + margin)
    for index, (trial, curve) in enumerate(curves):
        label = f"{rate_of(trial):g}" + (", diverged" if _diverged(trial) else "")
        if all(loss > highest + margin for _, loss in curve):
            label += ", above the figure"
        axes.plot(
            *zip(*curve, strict=True),
            label=label,
            markevery=max(1, len(curve) // MARKERS_PER_LINE),
            **line_style(index),
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="step", ylabel="training loss, nats")
    others = title_of(search)
    title = "Training loss by learning rate" + (f": {others}" if others else "")
    explain(axes, title, "learning rate")
    return figure


def title_of(search: Search) -> str:
    """Returns the values of the other hyperparameters as a title."""
    values = [f"{name} {value}" for name, value in search.others.items()]
    return ", ".join(values)
