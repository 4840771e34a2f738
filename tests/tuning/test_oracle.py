"""The oracle in keras-tuner's own loop, on scripted losses."""

import math
import shutil

import keras_tuner
import pytest

from igpt_keras import InputError
from tests.tuning.test_rates import INF, SCRIPTS
from tuning import LargeToSmallOracle, Rates
from tuning.rates import WORSE
from tuning.summary import verdict

RATES = Rates(1.0, floor=0.01)


class Scripted(keras_tuner.Tuner):
    """Trials that take no time: `losses` by rate; `ran` lists those that were run."""

    def __init__(self, oracle, losses, directory, hyperparameters=lambda hp: None):
        self.losses = losses
        self.ran = []
        space = oracle.get_space()
        hyperparameters(space)
        oracle.update_space(space)
        super().__init__(oracle, directory=directory, project_name="search")

    def on_search_begin(self):
        self.save()

    def run_trial(self, trial, verbose):
        values = dict(trial.hyperparameters.values)
        self.ran.append(values)
        loss = (
            self.losses(values) if callable(self.losses) else self.losses[values["learning_rate"]]
        )
        if isinstance(loss, BaseException):
            raise loss
        return loss


def by_rate(losses):
    return dict(zip(RATES.values(), losses, strict=True))


def oracle(objective="val_loss", **settings):
    return LargeToSmallOracle(objective, RATES, **settings)


@pytest.mark.parametrize("worst", [INF, math.nan])
@pytest.mark.parametrize("name", SCRIPTS)
def test_search(tmp_path, name, worst):
    losses, tried, how = SCRIPTS[name]
    script = by_rate(worst if loss == INF else loss for loss in losses)
    tuner = Scripted(oracle(), script, tmp_path)
    tuner.search(verbose=0)
    assert [values["learning_rate"] for values in tuner.ran] == RATES.values()[:tried]
    (search,) = tuner.oracle.searches()
    assert search.ending == how
    statuses = [trial.status for trial in search.trials]
    assert statuses == ["FAILED" if loss == INF else "COMPLETED" for loss in losses[:tried]]
    best = tuner.get_best_hyperparameters()
    if min(losses[:tried]) == INF:
        assert (best, search.best) == ([], None)
    else:
        rate = RATES.values()[losses.index(min(losses[:tried]))]
        assert best[0].get("learning_rate") == rate
        assert search.best.hyperparameters.get("learning_rate") == rate


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [
        ([3.0, 2.0, 2.5, 0.0, 0.0], "learning rate 0.3: smaller ones were worse"),
        ([1.0, 2.0, 0.0, 0.0, 0.0], "learning rate 1, the first one tried: the optimum may"),
        ([5.0, 4.0, 3.0, 2.0, 1.0], "0.01: the floor was reached; the optimum may lie below"),
        ([5.0, 4.0, 3.0, 1.0, 1.0], "0.03: the floor was reached, without an increase"),
        ([INF] * 5, "every rate down to 0.01 diverged: no rate worked"),
    ],
)
def test_verdict(tmp_path, losses, sentence):
    tuner = Scripted(oracle(), by_rate(losses), tmp_path)
    tuner.search(verbose=0)
    assert sentence in verdict(tuner.oracle.searches()[0])


def test_what_is_maximized(tmp_path):
    accuracies = by_rate([0.5, 0.8, 0.7, 0.9, 0.9])
    objective = keras_tuner.Objective("val_accuracy", "max")
    tuner = Scripted(
        oracle(objective), {r: {"val_accuracy": a} for r, a in accuracies.items()}, tmp_path
    )
    tuner.search(verbose=0)
    assert [values["learning_rate"] for values in tuner.ran] == [1.0, 0.3, 0.1]
    assert tuner.get_best_hyperparameters()[0].get("learning_rate") == 0.3


def test_others_ride_along_each_with_its_own_search(tmp_path):
    best = {None: 0.1, 0.15: 0.3, 0.2: 1.0, 0.25: 0.1}

    def loss(values):
        distance = math.log(values["learning_rate"] / best[values.get("mask_probability")])
        return distance**2

    def hyperparameters(hp):
        hp.Choice("objective", ["ar", "bert"])
        with hp.conditional_scope("objective", ["bert"]):
            hp.Float("mask_probability", 0.15, 0.25, step=0.05)

    tuner = Scripted(oracle(), loss, tmp_path, hyperparameters)
    tuner.search(verbose=0)
    tried = [(v["objective"], v.get("mask_probability"), v["learning_rate"]) for v in tuner.ran]
    assert tried == [
        *(("ar", None, rate) for rate in (1.0, 0.3, 0.1, 0.03)),
        *(("bert", 0.15, rate) for rate in (1.0, 0.3, 0.1)),
        *(("bert", pytest.approx(0.2), rate) for rate in (1.0, 0.3)),
        *(("bert", 0.25, rate) for rate in (1.0, 0.3, 0.1, 0.03)),
    ]
    searches = tuner.oracle.searches()
    assert [search.ending for search in searches] == [WORSE] * 4
    found = [search.best.hyperparameters.get("learning_rate") for search in searches]
    assert found == [0.1, 0.3, 1.0, 0.1]


def test_an_error_is_an_error(tmp_path):
    script = by_rate([3.0, 2.0, ZeroDivisionError("a bug"), 2.5, 0.0])
    tuner = Scripted(oracle(), script, tmp_path)
    with pytest.raises(RuntimeError, match="a bug"):
        tuner.search(verbose=0)
    again = Scripted(oracle(), by_rate([9.0, 9.0, 1.0, 2.5, 0.0]), tmp_path)
    again.search(verbose=0)
    assert [values["learning_rate"] for values in again.ran] == [0.1, 0.03]
    assert again.get_best_hyperparameters()[0].get("learning_rate") == 0.1


class Photographed(LargeToSmallOracle):
    """Keeps a copy of the search's folder after every file that it writes."""

    photographs = []

    def save(self):
        super().save()
        self._photograph()

    def _save_trial(self, trial):
        super()._save_trial(trial)
        self._photograph()

    def _photograph(self):
        directory = self.folder.parent
        copy = f"{directory}-{len(self.photographs):02}"
        shutil.copytree(directory, copy)
        self.photographs.append(copy)


def test_killed_between_any_two_writes(tmp_path):
    script = by_rate([INF, 2.0, 1.0, 1.5, 0.0])

    def hyperparameters(hp):
        hp.Choice("size", [2, 4])

    Photographed.photographs = []
    whole = Scripted(Photographed("val_loss", RATES), script, tmp_path / "search", hyperparameters)
    whole.search(verbose=0)
    assert len(whole.ran) == 8
    assert len(Photographed.photographs) > 4 * 8
    for photograph in Photographed.photographs:
        tuner = Scripted(oracle(), script, photograph, hyperparameters)
        ended = [t for t in tuner.oracle.trials.values() if t.status in ("COMPLETED", "FAILED")]
        tuner.search(verbose=0)
        assert tuner.ran == whole.ran[len(ended) :], photograph
        assert [t.score for t in tuner.oracle.get_best_trials(8)] == [1.0, 1.0, 1.5, 1.5, 2.0, 2.0]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: LargeToSmallOracle("val_loss", Rates(3.0)), "with rates start=1.0"),
        (lambda: oracle(tolerance=0.5), "with tolerance 0, got 0.5"),
    ],
)
def test_another_search_in_the_same_folder(tmp_path, other, message):
    Scripted(oracle(), by_rate([1.0, 2.0, 3.0, 4.0, 5.0]), tmp_path).search(verbose=0)
    with pytest.raises(InputError, match=message):
        Scripted(other(), {}, tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": -1.0}, "tolerance must be 0 or more, got -1"),
        ({"objective": ["val_loss", "loss"]}, "objective must be a single one"),
    ],
)
def test_unusable_settings(settings, message):
    with pytest.raises(InputError, match=message):
        oracle(**settings)
