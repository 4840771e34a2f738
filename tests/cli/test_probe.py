import json
import shutil
import signal
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix

import igpt_keras
from igpt_keras.data.data_set import open_data
from igpt_keras.data.tokenization import tokenize
from igpt_keras.evaluation.features import FeatureExtractor
from igpt_keras.evaluation.probe_features import LayerFeatures
from igpt_keras.evaluation.probe_methods import fit_probe
from igpt_keras.evaluation.probe_methods.lbfgs import LBFGS
from igpt_keras.evaluation.probes import ProbeSplits, load_probe
from igpt_keras.evaluation.voting import modal_vote
from igpt_keras.models.masking import masked_inputs
from igpt_keras.runs.result import read_result

CLASSES = 2
# One test image that falls on the border between two classes.
ONE_OF_12 = 1 / 12 + 1e-9


def tokenized(photos, model):
    data_set = open_data(f"folder:{photos}")
    splits = (data_set.train, data_set.validation, data_set.test)
    return [tokenize(split, model.tokenizer) for split in splits]


def by_sklearn(train, labels, strength, test):
    """Predictions of a fit on the features as they are; only the unit of the strength is ours."""
    unit = train.var(axis=0).sum()
    classifier = LogisticRegression(C=strength / unit, tol=1e-9, max_iter=10_000)
    return classifier.fit(train, labels).predict(test)


def test_probe_measures_every_layer(igpt, photos, pretrained, tmp_path):
    path, run = pretrained("ar"), tmp_path / "run"
    status, printed, _ = igpt(
        *("probe", path, "--data", f"folder:{photos}", "--output", run, "--batch-size", 7),
        *("--concatenate", 2, "--labels-per-class", "3,5"),
    )
    assert status == 0
    # The best layer makes no errors to draw.
    assert {file.name for file in run.iterdir()} == {"result.json", "probe.npz"}
    result = read_result(run)
    metrics, settings = result.metrics, result.settings
    assert (result.kind, result.model["name"], result.data["train"]) == ("probe", "before", 36)
    assert (settings["features"], settings["method"]) == ("model", "lbfgs")
    assert (metrics["method"], metrics["num_classes"], metrics["voting"]) == ("lbfgs", 2, None)

    model = igpt_keras.load(path)
    train, validation, test = tokenized(photos, model)
    assert [entry["layer"] for entry in metrics["layers"]] == [0, 1, 2]
    for entry in metrics["layers"]:
        features = [np.asarray(model.features(p.tokens, entry["layer"])) for p in (train, test)]
        predicted = by_sklearn(features[0], train.labels, entry["C"], features[1])
        expected = np.mean(predicted == test.labels)
        assert entry["test_accuracy"] == pytest.approx(expected, abs=ONE_OF_12)
        assert entry["converged"] is True

    on_validation = [entry["validation_accuracy"] for entry in metrics["layers"]]
    best = int(np.argmax(on_validation))
    assert metrics["best_layer"] == best
    for name in ("validation_accuracy", "test_accuracy"):
        assert metrics[name] == metrics["layers"][best][name]
    linear = load_probe(run / "probe.npz").as_model()
    logits = linear.predict(model.features(test.tokens, best), verbose=0)
    predicted = logits.argmax(axis=1)
    assert metrics["test_accuracy"] == np.mean(predicted == test.labels)
    confusion = metrics["test_confusion"]
    assert confusion["class_names"] == ["dark", "light"]
    assert confusion["matrix"] == confusion_matrix(test.labels, predicted).tolist()
    assert metrics["concatenated"]["layers"] == [max(best - 1, 0), max(best - 1, 0) + 1]
    for count, few in zip((3, 5), metrics["low_data"], strict=True):
        assert (few["labels_per_class"], few["features"]) == (count, f"best layer {best}")
        assert len(few["accuracies"]) == 5
        assert few["mean"] == pytest.approx(np.mean(few["accuracies"]))
        assert few["std"] == pytest.approx(np.std(few["accuracies"], ddof=1))
        assert f"{few['mean']:.2%} ± {few['std']:.2%}" in printed
    assert f"layer {best}, best" in printed
    assert str(run / "result.json") in printed.replace("\n", "")


def test_features_are_kept_and_found_again(igpt, photos, pretrained, tmp_path):
    cache = tmp_path / "cache"
    arguments = ("probe", pretrained("ar"), "--data", f"folder:{photos}", "--feature-cache", cache)
    assert igpt(*arguments, "--output", tmp_path / "first")[0] == 0
    written = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert len(written) == 3
    assert igpt(*arguments, "--layers", "2,0", "--output", tmp_path / "second")[0] == 0
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == written
    first, second = (read_result(tmp_path / name).metrics for name in ("first", "second"))
    assert second["layers"] == [first["layers"][2], first["layers"][0]]


def test_bert_votes(igpt, photos, pretrained, tmp_path):
    path, run, cache = pretrained("bert"), tmp_path / "run", tmp_path / "cache"
    status, printed, _ = igpt(
        *("probe", path, "--data", f"folder:{photos}", "--output", run, "--seed", 3),
        *("--feature-cache", cache),
    )
    assert status == 0
    assert len(list(cache.iterdir())) == 2 + 5
    metrics = read_result(run).metrics

    model = igpt_keras.load(path)
    train, validation, test = tokenized(photos, model)
    extractor = FeatureExtractor(model, tmp_path / "other", seed=3)

    def of_best(split, vote=0):
        features = extractor.features(split.tokens, vote)
        return LayerFeatures(features, split.labels).select([metrics["best_layer"]])

    votes = [of_best(test, vote) for vote in range(5)]
    probe = fit_probe(LBFGS(), ProbeSplits(of_best(train), of_best(validation), votes[0], CLASSES))
    elected = modal_vote(np.stack([probe.predict(vote) for vote in votes]), CLASSES, seed=3)
    assert metrics["voting"]["test_accuracy"] == np.mean(elected == test.labels)
    assert metrics["voting"]["single_mask_accuracy"] == probe.accuracy(votes[0])
    assert metrics["test_accuracy"] == metrics["voting"]["single_mask_accuracy"]
    assert "vote under 5 masks" in printed


@pytest.mark.slow
def test_sgd_and_folding(igpt, photos, pretrained, tmp_path):
    arguments = ("probe", pretrained("ar"), "--data", f"folder:{photos}", "--layers", 1)
    sgd = ("--method", "sgd", "--epochs", 3)
    assert igpt(*arguments, *sgd, "--output", tmp_path / "sgd")[0] == 0
    (entry,) = read_result(tmp_path / "sgd").metrics["layers"]
    assert entry["learning_rate"] in (30, 10, 3, 1, 0.3, 0.1)
    assert read_result(tmp_path / "sgd").settings["epochs"] == 3

    assert igpt(*arguments, "--train-on-validation", "--output", tmp_path / "folded")[0] == 0
    assert igpt(*arguments, "--output", tmp_path / "plain")[0] == 0
    folded, plain = (read_result(tmp_path / name) for name in ("folded", "plain"))
    assert (folded.settings["train_on_validation"], plain.settings["train_on_validation"]) == (
        True,
        False,
    )
    (entry,), (plain_entry,) = folded.metrics["layers"], plain.metrics["layers"]
    for name in ("C", "validation_accuracy"):
        assert entry[name] == plain_entry[name]
    model = igpt_keras.load(arguments[1])
    train, validation, test = tokenized(photos, model)
    features = [np.asarray(model.features(p.tokens, 1)) for p in (train, validation, test)]
    predicted = by_sklearn(
        np.concatenate(features[:2]),
        np.concatenate([train.labels, validation.labels]),
        entry["C"],
        features[2],
    )
    expected = np.mean(predicted == test.labels)
    assert entry["test_accuracy"] == pytest.approx(expected, abs=ONE_OF_12)


@pytest.mark.parametrize("baseline", ["pixels", "tokens"])
def test_baselines_probe_what_the_model_is_shown(igpt, photos, pretrained, tmp_path, baseline):
    path, run = pretrained("ar"), tmp_path / "run"
    status, printed, _ = igpt(
        *("probe", path, "--data", f"folder:{photos}", "--output", run, "--baseline", baseline),
        *("--labels-per-class", 4),
    )
    assert status == 0
    result = read_result(run)
    metrics = result.metrics
    (entry,) = metrics["layers"]
    assert entry["layer"] is None and metrics["best_layer"] is None
    assert result.settings["features"] == baseline
    assert metrics["low_data"][0]["features"] == baseline

    model = igpt_keras.load(path)
    features = [
        model.tokenizer.rgb[split.tokens].reshape(len(split), -1)
        for split in tokenized(photos, model)
    ]
    labels = [split.labels for split in tokenized(photos, model)]
    if baseline == "pixels":
        files = sorted(photos.glob("test/*/*.png"))
        features[2] = np.stack([np.asarray(Image.open(file)).ravel() for file in files])
        everything = sorted(photos.glob("train/*/*.png"))
        pixels = np.stack([np.asarray(Image.open(file)).ravel() for file in everything])
        # Training images are those of the same tokens.
        order = {tuple(t): p for t, p in zip(tokens_of(model, pixels), pixels, strict=True)}
        train = tokenized(photos, model)[0]
        features[0] = np.stack([order[tuple(tokens)] for tokens in train.tokens])
    predicted = by_sklearn(features[0].astype(float), labels[0], entry["C"], features[2])
    expected = np.mean(predicted == labels[2])
    assert metrics["test_accuracy"] == pytest.approx(expected, abs=ONE_OF_12)


def test_neighbors_of_every_layer_vote(igpt, photos, pretrained, tmp_path):
    path, run = pretrained("ar"), tmp_path / "run"
    status, printed, _ = igpt(
        *("probe", path, "--data", f"folder:{photos}", "--output", run, "--method", "knn"),
        *("--num-neighbors", 3, "--labels-per-class", "1"),
    )
    assert status == 0
    # There are no weights to keep.
    metrics = read_result(run).metrics
    assert {file.name for file in run.iterdir()} == {"result.json"}
    assert "num neighbors" in printed and f"layer {metrics['best_layer']}, best" in printed
    model = igpt_keras.load(path)
    train, _, test = tokenized(photos, model)
    for entry in metrics["layers"]:
        x, y = (np.asarray(model.features(p.tokens, entry["layer"])) for p in (train, test))
        cosines = y @ x.T / np.linalg.norm(y, axis=1)[:, None] / np.linalg.norm(x, axis=1)
        nearest = np.argsort(-cosines, axis=1)[:, :3]
        weights = np.exp(np.take_along_axis(cosines, nearest, axis=1) / 0.1)
        light = (weights * train.labels[nearest]).sum(axis=1) > weights.sum(axis=1) / 2
        assert entry["test_accuracy"] == pytest.approx(np.mean(light == test.labels))
        assert (entry["num_neighbors"], entry["temperature"]) == (3, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["ar", "bert"])
def test_attention_pools_the_states(igpt, photos, pretrained, tmp_path, objective):
    path, run = pretrained(objective), tmp_path / "run"
    status, printed, _ = igpt(
        *("probe", path, "--data", f"folder:{photos}", "--output", run, "--method", "attentive"),
        *("--epochs", 5, "--num-heads", 2, "--batch-size", 9, "--concatenate", 2),
        *("--labels-per-class", 3, "--train-on-validation"),
    )
    assert status == 0
    result = read_result(run)
    metrics, best = result.metrics, result.metrics["best_layer"]
    assert result.settings["epochs"] == 5 and "learning rate" in printed
    model, probe = igpt_keras.load(path), load_probe(run / "probe.npz")
    test = tokenized(photos, model)[2]
    inputs = masked_inputs(model, test.tokens, seed=0)
    states = np.asarray(model.layer_states(inputs, [best]))
    right = probe.as_model().predict(states, verbose=0).argmax(axis=1) == test.labels
    assert metrics["test_accuracy"] == right.mean()
    assert metrics["layers"][best]["num_heads"] == 2
    assert len(metrics["concatenated"]["layers"]) == 2
    assert len(metrics["low_data"][0]["accuracies"]) == 5
    assert (metrics["voting"] is None) == (objective == "ar")


def tokens_of(model, pixels):
    return model.tokenizer.tokenize(pixels.reshape(-1, 4, 4, 3))


def test_a_mistake_is_one_line_and_writes_nothing(igpt, photos, pretrained, tmp_path):
    path, run = pretrained("ar"), tmp_path / "run"
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in photos.glob("train/dark/*.png"):
        shutil.copy(file, flat)
    no_test = tmp_path / "no-test"
    shutil.copytree(photos / "train", no_test / "train")
    for arguments, message in (
        (["--layers", "0,3"], "layers must lie in 0…2, got 3"),
        (["--concatenate", 4], "concatenate must lie in 2…3, got 4"),
        (["--baseline", "pixels", "--layers", 1], "baseline=pixels has no layers"),
        (["--num-neighbors", 5], "num_neighbors=5 is for method=knn"),
        (["--method", "attentive", "--num-heads", 3], "num_heads must divide the width 16"),
        (["--method", "attentive", "--baseline", "pixels"], "baseline=pixels has no states"),
        (["--method", "attentive", "--feature-cache", flat], "keeps features, which"),
        (["--method", "knn", "--learning-rate", 1], "learning_rate=1.0 is for method=sgd"),
        (["--labels-per-class", 30], "must have at least 30 images"),
        (["--data", f"folder:{flat}"], "labels come from one source"),
    ):
        status, _, error = igpt(
            "probe", path, "--data", f"folder:{photos}", "--output", run, *arguments
        )
        assert (status, error.count("\n")) == (2, 1)
        assert message in error
    for data, message in (
        (flat, "has no labels"),
        (no_test, "no labeled test split"),
    ):
        status, _, error = igpt("probe", path, "--data", f"folder:{data}", "--output", run)
        assert (status, error.count("\n")) == (2, 1)
        assert message in error
    for numbers in ("4,x", "0,4", "4,4"):
        status, _, error = igpt(
            *("probe", path, "--data", f"folder:{photos}", "--output", run),
            *("--labels-per-class", numbers),
        )
        assert status == 2 and numbers in error
    assert not run.exists()


def test_sigterm_ends_it_and_leaves_nothing(igpt, photos, pretrained, tmp_path):
    arguments = ("probe", pretrained("ar"), "--data", f"folder:{photos}")
    before = set(tmp_path.iterdir()), signal.getsignal(signal.SIGTERM)
    # Where features are extracted, the unfinished folder of the run is there.
    with mock.patch.object(FeatureExtractor, "features") as features:
        features.side_effect = lambda *_: signal.raise_signal(signal.SIGTERM)
        status, _, _ = igpt(*arguments, "--output", tmp_path / "run")
    assert features.called and status == 128 + signal.SIGTERM
    assert (set(tmp_path.iterdir()), signal.getsignal(signal.SIGTERM)) == before


def test_only_results_are_overwritten(igpt, photos, pretrained, tmp_path):
    arguments = ("probe", pretrained("ar"), "--data", f"folder:{photos}", "--layers", "1")
    run = tmp_path / "run"
    assert igpt(*arguments, "--output", run)[0] == 0
    before = json.loads((run / "result.json").read_text())
    status, _, error = igpt(*arguments, "--output", run)
    assert status == 2 and "exists already" in error
    assert igpt(*arguments, "--output", run, "--overwrite")[0] == 0
    after = json.loads((run / "result.json").read_text())
    assert before.pop("command") != after.pop("command")
    assert before == after
    assert igpt(*arguments, "--output", photos, "--overwrite")[0] == 2
    assert (photos / "train").is_dir()
