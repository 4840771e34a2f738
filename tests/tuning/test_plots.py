"""Plots of searches, as Matplotlib's own objects tell of them."""

import keras_tuner
import numpy as np
import pytest
from keras_tuner.engine.trial import Trial, TrialStatus

pytest.importorskip("matplotlib")
plots = pytest.importorskip("tuning.plots")
from tuning.oracle import Search  # noqa: E402

LOSS = keras_tuner.Objective("val_loss", "min")
ACCURACY = keras_tuner.Objective("val_accuracy", "max")


def search(scores, best=None, **others):
    """Trials with these scores by learning rate; None for one that diverged."""
    trials = []
    for rate, score in scores.items():
        hyperparameters = keras_tuner.HyperParameters()
        hyperparameters.Fixed("learning_rate", rate)
        status = TrialStatus.FAILED if score is None else TrialStatus.COMPLETED
        trials.append(Trial(hyperparameters, str(rate), status))
        trials[-1].score = score
    chosen = next((trial for trial in trials if trial.trial_id == str(best)), None)
    return Search(others, trials, "", chosen)


def texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize("objective", [LOSS, ACCURACY])
def test_a_rate_that_diverged_is_worse_than_all_inside_the_frame_and_on_a_line(objective):
    trials = search({3.0: None, 1.0: 2.0, 0.1: 1.0}, best=0.1)
    (axes,) = plots.score_by_rate([trials], objective).axes
    assert axes.get_title(loc="left")
    assert axes.get_xlabel() == "learning rate"
    assert "val_" not in axes.get_ylabel()
    (cross,) = [
        line for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata()) == 1
    ]
    (y,) = cross.get_ydata()
    low, high = axes.get_ylim()
    if objective is LOSS:
        assert max(2.0, low) < y < high
    else:
        assert low < y < min(1.0, high)
    (dotted,) = [
        line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_xdata()) == 2
    ]
    assert set(zip(dotted.get_xdata(), dotted.get_ydata(), strict=True)) == {(1.0, 2.0), (3.0, y)}
    assert texts(axes) == ["best: 1 at 0.1", "diverged"]


def test_nothing_is_said_of_divergence_where_none_did():
    searches = [search({1.0: 2.0, 0.1: 1.0}, best=0.1, num_layers=n) for n in (1, 2)]
    (axes,) = plots.score_by_rate(searches, LOSS).axes
    assert texts(axes) == ["num_layers 1: 1 at 0.1", "num_layers 2: 1 at 0.1"]


def test_a_search_of_which_all_diverged_is_drawn():
    (axes,) = plots.score_by_rate([search({3.0: None, 1.0: None})], LOSS).axes
    assert "diverged" in texts(axes)


class Curves:
    """Stands for a tuner whose trials kept these losses by rate."""

    def __init__(self, curves):
        self.curves, self.experiment = curves, self

    def run_folder(self, trial):
        return trial.trial_id

    def curve(self, folder):
        return self.curves[folder]


def test_losses_have_integer_steps_and_what_leaves_the_figure_is_said():
    rates = [3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003]
    curves = {str(rate): [(1, 2.0), (2, 1.0)] for rate in rates} | {"3.0": [(1, 50.0), (2, 90.0)]}
    trials = search({rate: None if rate == 3 else 1.0 for rate in rates})
    (axes,) = plots.losses_by_step(Curves(curves), trials).axes
    assert all(step == int(step) for step in axes.get_xticks())
    assert axes.get_legend().get_title().get_text() == "learning rate"
    assert texts(axes)[:2] == ["3, diverged, above the figure", "1"]
    low, high = axes.get_ylim()
    assert low < 1 and 2 < high < 50
    # Two lines of a similar color differ in their dashes.
    drawn = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
    blues = [dashes for color, dashes in drawn if color in ("#0072B2", "#56B4E9")]
    assert len(blues) == len(set(blues)) == 2
    assert np.unique([line.get_marker() for line in axes.lines]).size == len(rates)
