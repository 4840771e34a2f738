"""Final figures against learning rates, and the loss of each trial, drawn with matplotlib."""

import pathlib
from collections.abc import Sequence

from keras_tuner.engine.trial import TrialStatus
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from igpt_keras.atomic import atomic_path
from igpt_keras.report.plots import line_style, png, stacked_axes, styled
from tuning.oracle import Search
from tuning.summary import rate_of
from tuning.tuner import LearningRateSearch

SCORES_FILE = "rates.png"
LOSSES_FILE = "losses{}.png"
MARGIN = 1.5


def draw(tuner: LearningRateSearch, folder: pathlib.Path) -> list[str]:
    """Draws `folder`/rates.png and, where trials kept it, the loss of those of each search.

    Returns: the names of the files.
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
    """A line for each search, its best trial ringed; trials that diverged at the upper edge."""
    figure, (axes,) = stacked_axes([len(searches)])
    for index, search in enumerate(searches):
        style = line_style(index)
        completed = [t for t in search.trials if t.status == TrialStatus.COMPLETED]
        rates, scores = [rate_of(t) for t in completed], [t.score for t in completed]
        label = title_of(search) or "best"
        if search.best is not None:
            best = (rate_of(search.best), search.best.score)
            axes.scatter(*best, s=150, facecolors="none", edgecolors=style["color"], zorder=3)
            label += f": {best[1]:.4g} at {best[0]:g}"
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
    _explain(axes)
    return figure


@styled
def losses_by_step(tuner: LearningRateSearch, search: Search) -> Figure | None:
    """The training loss of each trial of a search; None where no trial kept it."""
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
    # Spikes leave the figure, the rest stays readable.
    axes.set_ylim(0.95 * min(lowest), 1.05 * max(first))
    axes.set(xlabel="step", ylabel="training loss, nats")
    axes.set_title(title_of(search), loc="left", fontsize=10)
    _explain(axes)
    return figure


def title_of(search: Search) -> str:
    """The values of the other hyperparameters."""
    values = [f"{name} {value}" for name, value in search.others.items()]
    return ", ".join(values)


def _explain(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
