"""Plots of a search: final metric by learning rate, and the training loss of each trial."""

import pathlib
from collections.abc import Sequence
from typing import Any

from keras_tuner.engine.trial import TrialStatus
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from igpt_keras.atomic import atomic_path
from igpt_keras.report.plots import explain, line_style, png, ring_point, stacked_axes, styled
from tuning.oracle import Search
from tuning.summary import rate_of
from tuning.tuner import LearningRateSearch

SCORES_FILE = "rates.png"
LOSSES_FILE = "losses{}.png"
MARGIN = 1.5


def draw(tuner: LearningRateSearch, folder: pathlib.Path) -> list[str]:
    """Writes `folder`/rates.png, and the training losses of each search whose trials kept them.

    Returns:
        The names of the files.
    """
    searches = tuner.oracle.searches()
    figures = {SCORES_FILE: score_by_rate(searches, tuner.oracle.objective.name)}
    for search in searches:
        name = "".join(f"-{value}" for value in search.others.values())
        figures[LOSSES_FILE.format(name)] = losses_by_step(tuner, search)
    drawn = {name: png(figure) for name, figure in figures.items() if figure is not None}
    for name, content in drawn.items():
        with atomic_path(folder / name, overwrite=True) as partial:
            partial.write_bytes(content)
    return list(drawn)


@styled
def score_by_rate(searches: Sequence[Search], objective: str) -> Figure:
    """Draws a line for each search, its best trial ringed; crosses are trials that diverged."""
    figure, (axes,) = stacked_axes([len(searches)])
    for index, search in enumerate(searches):
        style = line_style(index)
        completed = [t for t in search.trials if t.status == TrialStatus.COMPLETED]
        rates = [rate_of(t) for t in completed]
        scores: list[Any] = [t.score for t in completed]
        label = title_of(search) or "best"
        if search.best is not None:
            rate = rate_of(search.best)
            score: Any = search.best.score
            ring_point(axes, rate, score, style)
            label += f": {score:.4g} at {rate:g}"
        axes.plot(rates, scores, label=label, **style)
        diverged = [rate_of(t) for t in search.trials if t.status == TrialStatus.FAILED]
        axes.scatter(
            *(diverged, [1.0] * len(diverged)),
            marker="x",
            s=60,
            color=style["color"],
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            zorder=3,
        )
    tried = sorted({rate_of(trial) for search in searches for trial in search.trials})
    axes.set_xscale("log")
    axes.set_xticks(tried, [f"{rate:g}" for rate in tried])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(tried[0] / MARGIN, tried[-1] * MARGIN)
    axes.set(xlabel="learning rate (×: diverged)", ylabel=f"final {objective}")
    axes.margins(y=0.12)
    explain(axes, "Learning-rate search")
    return figure


@styled
def losses_by_step(tuner: LearningRateSearch, search: Search) -> Figure | None:
    """Draws the training loss of each trial of a search; None where no trial kept it."""
    figure, (axes,) = stacked_axes([len(search.trials)])
    first, lowest = [], []
    for index, trial in enumerate(search.trials):
        curve = tuner.experiment.curve(tuner.run_folder(trial))
        if not curve:
            continue
        first.append(curve[0][1])
        lowest.append(min(loss for _, loss in curve))
        style = {**line_style(index), "marker": ""}
        diverged = ", diverged" if trial.status == TrialStatus.FAILED else ""
        axes.plot(*zip(*curve, strict=True), label=f"{rate_of(trial):g}{diverged}", **style)
    if not first:
        return None
    # Spikes may leave the axes, so that the rest stays readable.
    axes.set_ylim(0.95 * min(lowest), 1.05 * max(first))
    axes.set(xlabel="step", ylabel="training loss, nats")
    explain(axes, title_of(search) or "Training loss by learning rate")
    return figure


def title_of(search: Search) -> str:
    """Returns the values of the other hyperparameters as a title."""
    values = [f"{name} {value}" for name, value in search.others.items()]
    return ", ".join(values)
