"""What is read from runs, and what of it each figure shows."""

import re

import pytest

from igpt_keras.errors import InputError
from igpt_keras.report.collect import (
    Bars,
    baseline_label,
    label,
    layer_curves,
    loss_panels,
    objective_panels,
    short,
    with_origins,
)
from igpt_keras.report.runs import find_runs
from tests.report import report_runs as runs
from tests.report.report_runs import change, findings

CIFAR = "folder:/images/cifar10"


def test_runs_are_found_in_a_folder_and_up_to_two_below_each_once(tmp_path):
    for name in ("b", "a", "deep/c", "deep/.hidden", "deep/too/far", ".d.partial/new"):
        runs.probe(tmp_path / name)
    found = find_runs([tmp_path / "b", tmp_path, tmp_path / "a" / ".." / "a"])
    assert [run.folder for run in found] == [tmp_path / name for name in ("b", "a", "deep/c")]
    with pytest.raises(FileNotFoundError, match=r"nothing holds no run"):
        find_runs([tmp_path / "nothing"])


@pytest.mark.parametrize(
    ("make", "edit"),
    [
        (runs.probe, lambda result: result["metrics"].pop("layers")),
        (runs.probe, lambda result: result["metrics"].update(best_layer=9)),
        (runs.probe, lambda result: result["metrics"].update(best_layer=None)),
        (runs.probe, lambda result: result["metrics"].update(test_accuracy="high")),
        (runs.probe, lambda result: result["metrics"].update(layers=[3])),
        (runs.probe, lambda result: result["model"].update(config={})),
        (runs.probe, lambda result: result["model"].update(objective="gan")),
        (runs.probe, lambda result: result.update(data={})),
        (runs.baseline, lambda result: result["settings"].update(features="model")),
        (runs.fine_tuning, lambda result: result["settings"].pop("start")),
        (runs.pretraining, lambda result: result["metrics"].pop("minutes")),
        (runs.evaluation, lambda result: result["metrics"].update(test_loss=[])),
        (runs.comparison, lambda result: result["metrics"]["samples"].pop("recall")),
        (runs.comparison, lambda result: result["settings"]["samples"].pop("reference")),
    ],
)
def test_a_result_of_another_form_is_named(tmp_path, make, edit):
    change(make(tmp_path / "run"), edit)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "run" / "result.json"))):
        findings(tmp_path)


def test_figure_2_shows_the_last_step_of_each_run_and_the_baselines(tmp_path):
    for step, accuracies in ((300, (0.1, 0.5, 0.4, 0.2)), (100, (0.1, 0.2, 0.9, 0.3))):
        runs.probe(tmp_path / f"ar-{step}", runs.model(step=step), accuracies)
    bert = runs.model("bert", "bert", runs.BIG)
    # Layer 1 is the best on the test split, layer 3 on validation.
    runs.probe(tmp_path / "bert", bert, (0.1, 0.8, 0.6, 0.7), validation=[0.1, 0.5, 0.6, 0.65])
    # Once more with other settings: better on the test split, worse on validation.
    runs.probe(tmp_path / "other", bert, (0.1, 0.9, 0.9, 0.9), validation=[0.1, 0.2, 0.3, 0.4])
    # One layer alone, better everywhere, is no curve.
    runs.probe(
        tmp_path / "part", bert, (0.95,), layers=[{"layer": 2, "test_accuracy": 0.95}], best_layer=2
    )
    # Layers come in the order that the user gave them in.
    change(tmp_path / "bert", lambda result: result["metrics"]["layers"].reverse())
    runs.baseline(tmp_path / "pixels", test=0.25, validation=0.3)
    runs.baseline(tmp_path / "pixels-again", test=0.27, validation=0.2)
    runs.baseline(tmp_path / "tokens", "tokens", 0.22)
    runs.probe(tmp_path / "elsewhere", on=runs.data("tfds:stl10"))

    curves, baselines = layer_curves(findings(tmp_path), CIFAR)
    small, big = (
        short(config.parameter_count(objective))
        for config, objective in ((runs.SMALL, "ar"), (runs.BIG, "bert"))
    )
    assert [(label(c.model), [*c.layers.items()], c.best_layer, c.run.name) for c in curves] == [
        (f"AR {small} ar", [(0, 0.1), (1, 0.5), (2, 0.4), (3, 0.2)], 1, "ar-300"),
        (f"BERT {big} bert", [(0, 0.1), (1, 0.8), (2, 0.6), (3, 0.7)], 3, "bert"),
    ]
    assert [(baseline_label(each), each.test_accuracy) for each in baselines] == [
        ("raw pixels 4×4", 0.25),
        ("palette tokens 4×4, 8 colors", 0.22),
    ]


def test_runs_of_one_name_in_different_folders_stay_apart(tmp_path):
    for folder, last in (("a", 0.5), ("b", 0.6)):
        for step in (100, 200):
            of = runs.model(step=step, path=f"/{folder}/ar/snapshots/step-{step}")
            runs.probe(tmp_path / f"{folder}{step}", of, (0.1, 0.2, last, 0.3))
    # The last snapshot is also the model of the run.
    runs.probe(tmp_path / "c", runs.model(step=300, path="/a/ar/model"), (0.1, 0.2, 0.7, 0.3))
    panels = loss_panels(findings(tmp_path), CIFAR)
    assert [[probe.model.step for probe in track] for track in panels[0].tracks] == [
        [100, 200, 300],
        [100, 200],
    ]


def test_figure_3_joins_checkpoints_in_order_and_parts_what_cannot_be_compared(tmp_path):
    bigger_input = type(runs.SMALL)(8, 8, 16, 3, 2)
    for name, config, objective, data, points in (
        ("small", runs.SMALL, "ar", "folder:p", [(300, 1.8, 0.6), (100, 2.0, 0.5)]),
        ("big", runs.BIG, "ar", "folder:p", [(100, 1.9, 0.55)]),
        ("bert", runs.SMALL, "bert", "folder:p", [(100, 1.0, 0.4), (200, 0.9, 0.5)]),
        ("wide", bigger_input, "ar", "folder:p", [(100, 1.5, 0.4), (200, 1.4, 0.5)]),
        ("alone", runs.SMALL, "ar", "folder:q", [(100, 1.9, 0.4)]),
        ("diverged", runs.SMALL, "ar", "folder:p", [(100, float("nan"), 0.1)]),
        ("unknown", runs.SMALL, "ar", "folder:p", [(100, None, 0.1)]),
    ):
        for step, loss, accuracy in points:
            of = runs.model(name, objective, config, step, loss, data=data)
            # Folders are read in another order than that of the steps.
            runs.probe(tmp_path / f"{name}-{1000 - step}", of, (0.05, accuracy, 0.1, 0.1))

    panels = loss_panels(findings(tmp_path), CIFAR)
    series = {
        panel.title: {
            track[0].model.name: [
                (p.model.step, p.model.validation_loss, p.best_layer, p.test_accuracy)
                for p in track
            ]
            for track in panel.tracks
        }
        for panel in panels
    }
    assert series == {
        "AR on folder:p, 4×4 pixels, 8 colors": {
            "small": [(100, 2.0, 1, 0.5), (300, 1.8, 1, 0.6)],
            "big": [(100, 1.9, 1, 0.55)],
        },
        "BERT on folder:p, 4×4 pixels, 8 colors": {
            "bert": [(100, 1.0, 1, 0.4), (200, 0.9, 1, 0.5)]
        },
        "AR on folder:p, 8×8 pixels, 8 colors": {"wide": [(100, 1.5, 1, 0.4), (200, 1.4, 1, 0.5)]},
    }


def test_figure_4_pairs_equal_sizes_and_chooses_on_validation(tmp_path):
    bert = runs.model("bert", "bert")
    runs.probe(tmp_path / "probe", test=(0.1, 0.6, 0.2, 0.2))
    vote = {"test_accuracy": 0.58, "single_mask_accuracy": 0.55}
    runs.probe(tmp_path / "probe-bert", bert, (0.1, 0.55, 0.2, 0.2), voting=vote)
    # Better, and another snapshot than the one that the fine-tuning started from.
    runs.probe(tmp_path / "early", runs.model(step=50), (0.1, 0.65, 0.2, 0.2))
    runs.fine_tuning(tmp_path / "chosen", test=0.7, validation=0.75)
    runs.fine_tuning(tmp_path / "better-on-test", test=0.8, validation=0.74)
    runs.fine_tuning(tmp_path / "scratch", test=0.9, validation=0.9, start="scratch")
    runs.fine_tuning(tmp_path / "few", test=0.9, validation=0.9, labels_per_class=4)
    runs.fine_tuning(tmp_path / "folded", test=0.9, validation=None)
    runs.fine_tuning(tmp_path / "tuned-bert", bert, test=0.69, single=0.68)
    # No BERT model of this size, and none pre-trained on that data.
    runs.probe(tmp_path / "big", runs.model("big", config=runs.BIG))
    runs.probe(tmp_path / "other", runs.model("other", data="folder:q"))

    (panel,) = objective_panels(findings(tmp_path), CIFAR)
    assert panel.title == "3 layers, width 16, 4×4 pixels, 8 colors, on folder:p"
    assert panel.bars == (
        Bars("AR", 0.6, 0.7),
        Bars("BERT, one mask", 0.55, 0.68),
        Bars("BERT, vote over masks", 0.58, 0.69),
    )
    assert [run.name for run in panel.runs] == ["probe", "chosen", "probe-bert", "tuned-bert"]


def test_the_run_that_pretrained_a_model_comes_before_its_probe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs.pretraining(tmp_path / "ar")
    runs.pretraining(tmp_path / "unused")
    # As the probe was told it: from the folder that the report is made in.
    for name, path in (("p1", "ar/model"), ("p2", "./ar/snapshots/step-1"), ("p3", "ar")):
        runs.probe(tmp_path / name, runs.model(path=path))
    found = findings(tmp_path)
    probes = [probe.run for probe in found.probes]
    assert [run.name for run in with_origins(probes, found)] == ["ar", "p1", "p2", "p3"]


def test_counts_keep_three_digits():
    units = {"K": 1e3, "M": 1e6}
    for count in (1, 12, 999, 1000, 1234, 99949, 99951, 131072, 999499, 999501, 76571648):
        text = short(count)
        number = text.rstrip("KM")
        assert float(number) * units.get(text[-1], 1) == pytest.approx(count, rel=0.005)
        assert len(number.replace(".", "")) <= 3, text
    assert short(1362250752) == "1362M"
