import dataclasses
import statistics
import tracemalloc
import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from igpt_keras.data.labeled import per_class
from igpt_keras.errors import InputError
from igpt_keras.evaluation.low_data import low_data_runs
from igpt_keras.evaluation.probe_features import LayerFeatures, Scaling
from igpt_keras.evaluation.probe_methods import FitCheckpoints, fit_probe
from igpt_keras.evaluation.probe_methods._batches import Batches
from igpt_keras.evaluation.probe_methods.knn import KNN
from igpt_keras.evaluation.probe_methods.lbfgs import LBFGS
from igpt_keras.evaluation.probe_methods.ridge import Ridge
from igpt_keras.evaluation.probe_methods.sgd import SGD
from igpt_keras.evaluation.probes import (
    LinearProbe,
    ProbeSplits,
    best_layer,
    layers_around,
    load_probe,
)
from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager, Interrupted


def blobs(generator, count, centers, noise):
    """`count` points around each center; the label is the center's index."""
    labels = np.repeat(np.arange(len(centers)), count)
    points = centers[labels] + generator.normal(0, noise, (len(labels), centers.shape[1]))
    order = generator.permutation(len(labels))
    return points[order].astype(np.float32), labels[order].astype(np.int32)


def make_splits(seed=0, count=40, classes=3, width=6, noise=1.5):
    """One layer of overlapping blobs, off center and of uneven scale."""
    generator = np.random.default_rng(seed)
    centers = generator.normal(0, 1, (classes, width))
    splits = []
    for size in (count, count, 2 * count):
        points, labels = blobs(generator, size, centers, noise)
        splits.append(LayerFeatures([points * np.linspace(0.1, 0.3, width) + 2], labels))
    return ProbeSplits(
        *(LayerFeatures([p.layers[0].astype("f4")], p.labels) for p in splits), classes
    )


def by_sklearn(features, strength):
    """An exact fit on the features as they are: only the unit of the strength is ours."""
    x = features.layers[0].astype(np.float64)
    unit = x.var(axis=0).sum()
    return LogisticRegression(C=strength / unit, tol=1e-10, max_iter=10_000).fit(x, features.labels)


def centerd(weights):
    """Class weights up to what moves all classes alike."""
    return weights - weights.mean(axis=-1, keepdims=True)


def test_lbfgs_is_scikit_learns_on_unscaled_features_at_the_same_strength():
    splits = make_splits()
    strengths = [0.1, 1.0, 30.0]
    probes = list(LBFGS(strengths).fits(splits.train, 3))
    for probe, strength in zip(probes, strengths, strict=True):
        reference = by_sklearn(splits.train, strength)
        assert probe.setting == {"C": strength, "converged": True}
        expected = centerd(reference.coef_.T)
        np.testing.assert_allclose(
            centerd(probe.weights), expected, atol=0.02 * np.abs(expected).max()
        )
        agree = probe.predict(splits.test) == reference.predict(splits.test.layers[0])
        assert agree.mean() > 0.99


@pytest.mark.parametrize("present", [[1, 3], [0, 2, 3]])
def test_classes_without_training_images_are_never_predicted(present):
    splits = make_splits(classes=len(present))
    labels = np.array(present)
    renamed = LayerFeatures(splits.train.layers, labels[splits.train.labels])
    (probe,) = LBFGS([1.0]).fits(renamed, num_classes=5)
    expected = by_sklearn(renamed, 1.0).predict(splits.test.layers[0])
    predicted = probe.predict(splits.test)
    assert set(predicted) == set(present)
    assert (predicted == expected).mean() > 0.99


def test_one_that_does_not_converge_says_so_and_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (probe,) = LBFGS([100.0], max_iterations=2).fits(make_splits().train, 3)
    assert probe.setting["converged"] is False


def test_strength_is_the_best_on_validation():
    # Few images, many dimensions: too much and too little regularization are worse.
    splits = make_splits(seed=27, count=20, width=40, noise=3)
    strengths = [0.001, 0.1, 10.0, 1000.0]
    validation, test = splits.validation, splits.test
    references = [by_sklearn(splits.train, strength) for strength in strengths]
    accuracies = [r.score(validation.layers[0], validation.labels) for r in references]
    on_test = [r.score(test.layers[0], test.labels) for r in references]
    best = int(np.argmax(accuracies))
    assert 0 < best < 3 and best != np.argmax(on_test)
    probe = fit_probe(LBFGS(strengths), splits)
    assert probe.setting["C"] == strengths[best]
    assert probe.validation_accuracy == pytest.approx(accuracies[best])
    assert probe.accuracy(splits.test) == pytest.approx(on_test[best])


class Given:
    """A method whose probes are right on that many of ten validation images."""

    def __init__(self, right):
        self.right = right
        self.trained = 0

    def fits(self, train, num_classes):
        for right in self.right:
            self.trained += 1
            weights = np.eye(2)[(np.arange(10) >= right).astype(int)]
            yield LinearProbe(weights, np.zeros(2), setting={"C": self.trained})


@pytest.mark.parametrize(
    ("right", "best", "trained"),
    [
        ([4, 6, 5, 7, 6, 5, 10], 4, 6),
        ([4, 6, 6, 6, 6], 2, 5),
        ([6, 5, 6, 4, 3, 10], 1, 4),
        ([3, 5, 8], 3, 3),
    ],
)
def test_training_ends_once_two_fell_short_and_the_first_of_the_best_stays(right, best, trained):
    ten = LayerFeatures([np.eye(10, dtype=np.float32)], np.zeros(10, int))
    both_classes = LayerFeatures([np.eye(10, dtype=np.float32)], np.arange(10) % 2)
    method = Given(right)
    probe = fit_probe(method, ProbeSplits(both_classes, ten, ten, 2))
    assert probe.setting["C"] == best
    assert method.trained == trained
    assert probe.validation_accuracy == pytest.approx(right[best - 1] / 10)


def test_layers_are_chosen_on_validation_though_another_is_best_on_test():
    generator = np.random.default_rng(0)
    labels = np.tile(np.arange(2), 100).astype(np.int32)
    informative = (labels[:, None] + generator.normal(0, 0.1, (200, 3))).astype(np.float32)
    noise = generator.normal(0, 1, (200, 3)).astype(np.float32)
    splits = ProbeSplits(
        LayerFeatures([noise, informative, informative], labels),
        LayerFeatures([noise, noise, informative], labels),
        LayerFeatures([noise, informative, noise], labels),
        num_classes=2,
    )
    curve = {layer: fit_probe(LBFGS(), splits.select([layer])) for layer in range(3)}
    test = {layer: probe.accuracy(splits.test.select([layer])) for layer, probe in curve.items()}
    assert max(test, key=test.get) == 1
    assert best_layer(curve) == 2


def test_of_equally_good_layers_the_first_is_best():
    probe = fit_probe(LBFGS([1.0]), make_splits())
    better = dataclasses.replace(probe, validation_accuracy=probe.validation_accuracy + 0.1)
    assert best_layer({4: better, 2: better, 0: probe}) == 2


@pytest.mark.parametrize(
    "method", [LBFGS([0.1, 1.0, 10.0]), SGD([3.0, 0.1], epochs=2), Ridge([1.0, 0.01])]
)
def test_folding_trains_the_chosen_setting_on_both_parts(method):
    splits = make_splits()
    chosen = fit_probe(method, splits)
    folded = fit_probe(method, splits, fold=True)
    assert folded.setting == chosen.setting
    assert folded.validation_accuracy == chosen.validation_accuracy
    both = LayerFeatures(
        [np.concatenate([splits.train.layers[0], splits.validation.layers[0]])],
        np.concatenate([splits.train.labels, splits.validation.labels]),
    )
    (expected,) = method.with_setting(chosen.setting).fits(both, 3)
    np.testing.assert_allclose(folded.weights, expected.weights, rtol=1e-3)
    assert not np.allclose(folded.weights, chosen.weights, rtol=1e-3)


def test_sgd_takes_steps_with_momentum_along_a_cosine():
    splits = make_splits()
    x = Scaling.of(splits.train).apply(splits.train.layers[0]).astype(np.float64)
    right = np.eye(3)[splits.train.labels]
    # A batch of all images: the order does not matter, an epoch is a step.
    (probe,) = SGD([2.0], epochs=3, batch_size=len(x)).fits(splits.train, 3)
    weights, velocity = np.zeros((6, 3)), np.zeros((6, 3))
    for step in range(3):
        scores = np.exp(x @ weights)
        gradient = x.T @ (scores / scores.sum(axis=1, keepdims=True) - right) / len(x)
        velocity = 0.9 * velocity - 2 * (1 + np.cos(np.pi * step / 3)) / 2 * gradient
        weights += velocity
    scores = splits.test.layers[0] @ probe.weights + probe.bias
    expected = Scaling.of(splits.train).apply(splits.test.layers[0]) @ weights
    np.testing.assert_allclose(scores, expected, atol=1e-4)


class Counting(FitCheckpoints):
    """Counts the steps of all fits, and tells the fit to stop that makes a certain one."""

    def __init__(self, folder, last=None):
        super().__init__(folder)
        self.done, self.last = 0, last

    def of_next_fit(self):
        return CountedStates(super().of_next_fit().folder, self)


class CountedStates(CheckpointManager):
    def __init__(self, folder, counting):
        super().__init__(folder, max_to_keep=1)
        self.counting = counting

    def on_train_batch_end(self, batch, logs=None):
        self.counting.done += 1
        if self.counting.done == self.counting.last:
            self.stop()
        super().on_train_batch_end(batch, logs)


def test_sgd_that_was_stopped_ends_like_one_that_was_not(tmp_path):
    splits = make_splits(count=50)
    method = SGD([3.0, 1.0, 0.1], epochs=3, batch_size=8, seed=4)
    whole = list(method.fits(splits.train, 3))
    per_epoch = len(splits.train) // 8
    # Within an epoch of the first fit, at the end of one of the second, at that of the last.
    stops = [per_epoch + 5, 4 * per_epoch, 9 * per_epoch]
    done = 0
    for stop in stops:
        states = Counting(tmp_path, stop - done)
        with pytest.raises(Interrupted):
            list(dataclasses.replace(method, checkpoints=states).fits(splits.train, 3))
        # No step is made twice.
        assert states.done == stop - done
        done = stop
    states = Counting(tmp_path)
    resumed = list(dataclasses.replace(method, checkpoints=states).fits(splits.train, 3))
    assert states.done == 0
    for ours, theirs in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(ours.weights, theirs.weights)


def test_batches_go_on_at_any_step():
    train = make_splits().train
    batches = Batches(train.read, train.labels, 7, seed=3)
    later = Batches(train.read, train.labels, 7, seed=3, start=5)
    for index in range(2 * batches.per_epoch):
        for ours, theirs in zip(later[index], batches[index + 5], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    epochs = [
        [tuple(row) for index in range(batches.per_epoch) for row in batches[first + index][0]]
        for first in (0, batches.per_epoch)
    ]
    # No image twice, and another order in every epoch.
    assert all(len(set(rows)) == len(rows) == batches.per_epoch * 7 for rows in epochs)
    assert epochs[0] != epochs[1]


def test_a_probe_is_read_as_it_was_written(tmp_path):
    splits = make_splits()
    probe = fit_probe(SGD([3.0], epochs=2), splits)
    file = tmp_path / "probe.npz"
    probe.save(file)
    read = load_probe(file)
    np.testing.assert_array_equal(read.weights, probe.weights)
    np.testing.assert_array_equal(read.bias, probe.bias)
    logits = read.as_model().predict(splits.test.layers[0], verbose=0)
    np.testing.assert_array_equal(logits.argmax(axis=1), probe.predict(splits.test))
    content = file.read_bytes()
    for damaged in (b"", content[:-30], content[:40]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="probe.npz is not a probe"):
            load_probe(file)
    with pytest.raises(InputError, match="nothing.npz is not a probe"):
        load_probe(tmp_path / "nothing.npz")


def test_sgd_comes_near_lbfgs():
    splits = make_splits(count=200)
    by_sgd = fit_probe(SGD([10.0, 3.0], epochs=5, batch_size=32), splits)
    by_lbfgs = fit_probe(LBFGS(), splits)
    assert by_lbfgs.accuracy(splits.test) > 0.6
    assert by_sgd.accuracy(splits.test) > by_lbfgs.accuracy(splits.test) - 0.03


def peak_memory(folder, count):
    """Bytes that Python and NumPy hold at most while SGD trains on `count` images on disk."""
    file = folder / f"{count}.npy"
    layer = np.lib.format.open_memmap(file, "w+", np.float32, (count, 64))
    layer[:, 0] = np.arange(count) % 2
    layer.flush()
    layer = np.load(file, mmap_mode="r")
    labels = (np.arange(count) % 2).astype(np.int32)
    splits = ProbeSplits(*[LayerFeatures([layer], labels)] * 3, num_classes=2)
    tracemalloc.start()
    fit_probe(SGD([1.0], epochs=1, batch_size=1024), splits)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_memory_of_sgd_does_not_grow_with_the_features(tmp_path):
    peak_memory(tmp_path, 1024)  # What is imported and cached the first time.
    few, many = peak_memory(tmp_path, 4096), peak_memory(tmp_path, 32768)
    features = (32768 - 4096) * 64 * 4
    assert many - few < features / 4


def test_neighbors_vote_as_scikit_learns_do_over_many_reads():
    generator = np.random.default_rng(0)
    x, y = (generator.normal(0.3, 1, (count, 8)).astype(np.float32) for count in (2200, 100))
    labels = generator.integers(0, 4, len(x))
    train = LayerFeatures([x], labels)
    # A weight of exp(10,000) overflows as it is.
    for k, temperature in ((1, 0.1), (20, np.inf), (200, 0.1), (2200, 1e-4)):
        (probe,) = KNN(k, temperature).fits(train, 4)
        reference = KNeighborsClassifier(
            k,
            metric="cosine",
            # A cosine distance is 1 - the similarity.
            weights=lambda distances, t=temperature: np.exp(
                (distances.min(axis=1, keepdims=True) - distances) / t
            ),
        ).fit(x.astype(np.float64), labels)
        scores = probe.scores(y)
        expected = reference.predict_proba(y.astype(np.float64))
        np.testing.assert_allclose(scores / scores.sum(axis=1)[:, None], expected, atol=1e-3)
    (probe,) = KNN(20, np.inf).fits(train, 4)
    uniform = KNeighborsClassifier(20, metric="cosine").fit(x, labels)
    test = LayerFeatures([y], labels[:100])
    np.testing.assert_array_equal(probe.predict(test), uniform.predict(y))


def test_ridge_is_scikit_learns_over_many_reads():
    train = make_splits(count=1500).train
    x = train.layers[0].astype(np.float64)
    alphas = [1.0, 0.01, 1e-6]
    # Ours are a multiple of the number of images and of the features' variance.
    unit = len(x) * x.var(axis=0).sum()
    for probe, alpha in zip(Ridge(alphas).fits(train, 3), alphas, strict=True):
        reference = RidgeClassifier(alpha=alpha * unit).fit(x, train.labels)
        np.testing.assert_allclose(probe.weights, reference.coef_.T, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(probe.bias, reference.intercept_, rtol=1e-3, atol=1e-3)
        assert probe.setting == {"alpha": alpha}
    # A feature twice is not invertible without regularization.
    twice = LayerFeatures([train.layers[0], train.layers[0]], train.labels)
    *_, last = Ridge([1.0, 1e-7]).fits(twice, 3)
    *_, once = Ridge([1.0, 1e-7]).fits(train, 3)
    assert (last.predict(twice) == once.predict(train)).mean() > 0.999


def test_ridge_never_predicts_a_class_without_images():
    splits = make_splits(classes=2)
    renamed = LayerFeatures(splits.train.layers, np.array([1, 3])[splits.train.labels])
    (probe,) = Ridge([0.01]).fits(renamed, num_classes=5)
    x = splits.train.layers[0].astype(np.float64)
    reference = RidgeClassifier(alpha=0.01 * len(x) * x.var(axis=0).sum()).fit(x, renamed.labels)
    np.testing.assert_array_equal(
        probe.predict(splits.test), reference.predict(splits.test.layers[0])
    )


def test_fewer_images_than_neighbors_all_vote():
    few = make_splits().train.take(np.array([0, 5, 7]))
    (probe,) = KNN(200, np.inf).fits(few, 3)
    assert probe.setting == {"num_neighbors": 3, "temperature": np.inf}
    counts = np.bincount(few.labels, minlength=3)
    np.testing.assert_array_equal(probe.scores(few.layers[0]), [counts] * 3)
    silent = LayerFeatures([np.zeros((2, 6), np.float32)], np.arange(2))
    np.testing.assert_array_equal(probe.scores(silent.layers[0]), [counts] * 2)
    folded = fit_probe(KNN(200), make_splits(), fold=True)
    assert folded.setting["num_neighbors"] == 200


def test_memory_of_neighbors_does_not_grow_with_the_images(tmp_path):
    def peak(count):
        layer = np.lib.format.open_memmap(tmp_path / f"{count}.npy", "w+", np.float32, (count, 64))
        layer[:, 0] = 1
        layer.flush()
        layer = np.load(tmp_path / f"{count}.npy", mmap_mode="r")
        (probe,) = KNN().fits(LayerFeatures([layer], np.arange(count) % 2), 2)
        tracemalloc.start()
        probe.scores(np.ones((64, 64), np.float32))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few, many = peak(4096), peak(32768)
    assert many - few < (32768 - 4096) * 64 * 4 / 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_neighbors": 0}, "num_neighbors must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"temperature": np.nan}, "temperature must be above 0, got nan"),
        ({"learning_rate": 0.1}, "learning_rate=0.1 is for method=sgd or attentive"),
    ],
)
def test_options_that_neighbors_cannot_have_are_named(options, message):
    with pytest.raises(InputError, match=message):
        KNN.from_options(**options)


@pytest.mark.parametrize("method", [LBFGS, SGD])
def test_methods_without_neighbors_say_so(method):
    with pytest.raises(InputError, match="num_neighbors=3 is for method=knn"):
        method.from_options(num_neighbors=3)


def test_scaling_is_by_mean_and_total_variance_over_many_reads():
    generator = np.random.default_rng(0)
    x = (generator.normal(0, [1, 2, 3], (5001, 3)) + [100, 0, -5]).astype(np.float32)
    scaling = Scaling.of(LayerFeatures([x[:, :1], x[:, 1:]], np.zeros(len(x), int)))
    np.testing.assert_allclose(scaling.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-6)
    assert scaling.scale == pytest.approx(np.sqrt(x.var(axis=0, dtype=np.float64).sum()), rel=1e-5)
    constant = LayerFeatures([np.ones((3, 2), np.float32)], np.arange(3))
    assert Scaling.of(constant).scale == 1


def test_layers_lie_side_by_side_and_parts_one_after_the_other():
    generator = np.random.default_rng(0)
    layers = generator.normal(0, 1, (4, 20, 3)).astype(np.float32)
    first = LayerFeatures(layers[:, :12], np.arange(12)).select([1, 3])
    second = LayerFeatures(layers[:, 12:], np.arange(12, 20)).select([1, 3])
    expected = np.concatenate([layers[1], layers[3]], axis=1)
    joined = first.join(second)
    assert joined.width == 6 and len(joined) == 20
    rows = generator.permutation(20)[:9]
    for chosen in (slice(None), slice(5, 15), slice(18, 30), rows, rows[:0]):
        np.testing.assert_array_equal(joined.read(chosen), expected[chosen])
    np.testing.assert_array_equal(joined.take(rows).read(slice(None)), expected[rows])
    np.testing.assert_array_equal(joined.take(rows).labels, rows)
    assert np.concatenate(list(joined.read_all())).dtype == np.float32


@pytest.mark.parametrize(
    ("layer", "count", "expected"),
    [
        (5, 5, [3, 4, 5, 6, 7]),
        (0, 5, [0, 1, 2, 3, 4]),
        (1, 3, [0, 1, 2]),
        (8, 5, [4, 5, 6, 7, 8]),
        (4, 2, [3, 4]),
        (2, 9, list(range(9))),
        (3, 1, [3]),
    ],
)
def test_layers_around_are_centerd_where_there_is_room(layer, count, expected):
    assert layers_around(layer, count, num_layers=8) == expected


def test_more_layers_than_there_are_cannot_be_concatenated():
    with pytest.raises(InputError, match="count must lie in 1…9, got 10"):
        layers_around(4, 10, num_layers=8)


def test_low_data_figures_are_those_of_the_subsets():
    splits = make_splits()
    method = LBFGS([0.1, 1.0])
    runs = low_data_runs(method, splits, [2, 10], subsets=3, seed=5)
    assert [run["labels_per_class"] for run in runs] == [2, 10]
    for run in runs:
        accuracies = []
        for seed in (5, 6, 7):
            few = splits.train.take(per_class(splits.train.labels, run["labels_per_class"], seed))
            assert list(np.bincount(few.labels)) == [run["labels_per_class"]] * 3
            probe = fit_probe(method, ProbeSplits(few, splits.validation, splits.test, 3))
            reference = by_sklearn(few, probe.setting["C"])
            accuracies.append(reference.score(splits.test.layers[0], splits.test.labels))
        assert run["accuracies"] == pytest.approx(accuracies, abs=0.02)
        assert run["mean"] == pytest.approx(statistics.mean(run["accuracies"]))
        assert run["std"] == pytest.approx(statistics.stdev(run["accuracies"]))
    with pytest.raises(InputError, match="must have at least 41 images, got 40"):
        low_data_runs(method, splits, [41])


def test_unusable_labels_are_named():
    splits = make_splits()
    unlabeled = LayerFeatures(splits.test.layers, np.full(len(splits.test), -1))
    with pytest.raises(InputError, match="labels of test must lie in 0…2"):
        dataclasses.replace(splits, test=unlabeled)
    with pytest.raises(InputError, match="labels of validation must lie in 0…1"):
        dataclasses.replace(splits, num_classes=2, train=splits.train.take(np.array([0])))
    one_class = splits.train.take(np.flatnonzero(splits.train.labels == 1))
    with pytest.raises(InputError, match="two classes"):
        dataclasses.replace(splits, train=one_class)
