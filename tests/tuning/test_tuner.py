"""Searches that train: tiny models on the bundled digits."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

import igpt_keras
from igpt_keras import InputError
from igpt_keras.cli import igpt
from igpt_keras.data.data_set import open_data
from igpt_keras.evaluation.features import FeatureExtractor
from igpt_keras.runs import probe as probing
from igpt_keras.runs.folder import only_writer
from igpt_keras.runs.options import DataOptions
from igpt_keras.runs.pretrain import Settings
from igpt_keras.runs.result import read_result
from tuning import LearningRateSearch, PretrainExperiment, ProbeExperiment, Rates

SIZES = {"image_size": 8, "num_layers": 1, "hidden_dim": 16, "num_heads": 1, "num_colors": 8}
# BERT, for AR draws pictures.
SETTINGS = Settings(objective="bert", **SIZES, steps=24, batch_size=32, snapshots=1)
# 1e30, which no model stands, and 0.01.
RATES = Rates(1e30, floor=0.001, factor=1e32)


def tuner(directory, settings=SETTINGS, rates=RATES):
    return LearningRateSearch(PretrainExperiment("digits", settings), rates, directory=directory)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    directory = tmp_path_factory.mktemp("search")
    search = tuner(directory)
    search.search(verbose=0)
    return search


def _of_layers(hp):
    return dataclasses.replace(SETTINGS, num_layers=hp.Choice("num_layers", [1, 2]))


def scores(search):
    return [trial.score for trial in search.oracle.trials.values()]


def test_a_rate_that_diverges_is_followed_by_smaller_ones(searched):
    diverged, trained = searched.oracle.trials.values()
    assert (diverged.status, trained.status) == ("FAILED", "COMPLETED")
    assert np.isnan(diverged.score)
    assert diverged.message.startswith("training diverged at step")
    # Nothing resumes from either.
    assert not list(pathlib.Path(searched.project_dir).rglob("checkpoints"))
    (best,) = searched.get_best_hyperparameters(5)
    assert best.get("learning_rate") == 0.01


@pytest.mark.slow
def test_a_trial_is_a_run_of_igpt_pretrain(searched, tmp_path):
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]
    arguments = ["--objective", "bert", "--steps", "24", "--batch-size", "32", "--snapshots", "1"]
    result = CliRunner().invoke(
        igpt,
        ["pretrain", "--data", "digits", *sizes, *arguments, "--learning-rate", "0.01"]
        + ["--output", str(tmp_path / "run")],
    )
    assert result.exit_code == 0, result.output
    alone = read_result(tmp_path / "run").metrics
    (trial,) = searched.oracle.get_best_trials()
    assert trial.score == alone["validation_loss"]
    assert read_result(searched.run_folder(trial)).metrics["history"] == alone["history"]


def test_the_best_model_is_the_trained_one(searched):
    (model,) = searched.get_best_models()
    (trial,) = searched.oracle.get_best_trials()
    trained = igpt_keras.load(searched.run_folder(trial))
    for ours, theirs in zip(model.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_the_best_model_of_probes_is_a_linear_classifier(searched, tmp_path):
    (trial,) = searched.oracle.get_best_trials()
    model = searched.run_folder(trial)
    settings = probing.Settings(model=model, layers=[1], epochs=3)
    experiment = ProbeExperiment("digits", settings, features=tmp_path / "features")
    search = LearningRateSearch(experiment, Rates(3, floor=1), directory=tmp_path)
    search.search(verbose=0)
    (linear,) = search.get_best_models()
    validation = open_data("digits").validation
    loaded = igpt_keras.load(model)
    tokens = loaded.tokenizer.tokenize(validation.images)
    # As the probe saw them: a BERT model is masked.
    features = FeatureExtractor(loaded, tmp_path / "features").features(tokens)[1]
    (best,) = search.oracle.get_best_trials()
    with np.load(search.run_folder(best) / "probe.npz") as probe:
        logits = features @ probe["weights"] + probe["bias"]
    assert np.mean(logits.argmax(axis=1) == validation.labels) == best.score
    np.testing.assert_allclose(linear.predict(features, verbose=0), logits, atol=1e-4)
    # What a trial went on from goes with its end.
    assert not list(tmp_path.rglob("*checkpoints"))


def test_results_summary(searched, capsys):
    searched.results_summary()
    printed = capsys.readouterr().out
    assert "learning_rate: 0.01" in printed and "learning_rate: 1e+30" not in printed


def test_a_finished_search_runs_nothing(searched):
    before = {
        path: path.stat().st_mtime_ns
        for path in searched.run_folder(searched.oracle.get_best_trials()[0]).rglob("*")
    }
    again = tuner(searched.directory)
    again.search(verbose=0)
    assert scores(again)[1:] == scores(searched)[1:]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_second_search_on_one_folder_says_so(searched):
    with only_writer(searched.project_dir):
        with pytest.raises(InputError, match="another process"):
            tuner(searched.directory).search(verbose=0)
        with pytest.raises(InputError, match="another process"):
            LearningRateSearch(
                searched.experiment, RATES, directory=searched.directory, overwrite=True
            )


def test_another_search_in_the_same_folder(searched):
    with pytest.raises(InputError, match="holds a search with steps=24, got 25"):
        tuner(searched.directory, dataclasses.replace(SETTINGS, steps=25))
    with pytest.raises(InputError, match="over other hyperparameters"):
        tuner(searched.directory, _of_layers)
    # What does not change the result may change.
    tuner(searched.directory, dataclasses.replace(SETTINGS, log_every=7, strategy="mirrored"))


def test_a_trial_that_was_finished_but_not_noted_is_read(searched, tmp_path):
    """As after a kill between the run's last write and keras-tuner's first."""
    shutil.copytree(searched.directory, tmp_path / "cut")
    project = tmp_path / "cut" / searched.project_name
    (trial,) = searched.oracle.get_best_trials()
    file = project / f"trial_{trial.trial_id}" / "trial.json"
    content = json.loads(file.read_text())
    content |= {"status": "RUNNING", "score": None, "metrics": {"metrics": {}}}
    file.write_text(json.dumps(content))
    shutil.rmtree(file.parent / "events")
    result = file.parent / "run" / "result.json"
    before = result.stat().st_mtime_ns
    again = tuner(tmp_path / "cut")
    again.search(verbose=0)
    assert scores(again)[1:] == scores(searched)[1:]
    assert result.stat().st_mtime_ns == before
    assert list((file.parent / "events").iterdir())


@pytest.mark.slow
def test_two_replicas_find_what_one_finds(searched, tmp_path):
    mirrored = tuner(tmp_path, dataclasses.replace(SETTINGS, strategy="mirrored"))
    assert mirrored.experiment.strategy.num_replicas_in_sync == 2
    mirrored.search(verbose=0)
    assert [t.status for t in mirrored.oracle.trials.values()] == ["FAILED", "COMPLETED"]
    assert scores(mirrored)[1] == pytest.approx(scores(searched)[1], rel=1e-4)


def test_an_error_in_a_trial_is_raised_as_it_is(tmp_path):
    search = tuner(tmp_path, dataclasses.replace(SETTINGS, batch_size=31, strategy="mirrored"))
    with pytest.raises(InputError, match="batch_size must be a multiple of the 2 replicas, got 31"):
        search.search(verbose=0)


def test_what_no_trial_could_train_with_is_found_before_there_is_a_folder(tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=1, warmup_steps=2)
    with pytest.raises(InputError, match="warmup_steps must lie in 0…1"):
        tuner(tmp_path, settings)
    assert not list(tmp_path.iterdir())


def test_layers_that_are_not_there(searched, tmp_path):
    (trial,) = searched.oracle.get_best_trials()
    settings = probing.Settings(model=searched.run_folder(trial), layers=[0, 2])
    experiment = ProbeExperiment("digits", settings, features=tmp_path / "features")
    with pytest.raises(InputError, match="layers must lie in 0…1, got 2"):
        LearningRateSearch(experiment, directory=tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_to_validate_on():
    with pytest.raises(InputError, match="train_on_validation leaves nothing to choose a rate by"):
        PretrainExperiment(DataOptions(("digits",), train_on_validation=True), SETTINGS)
