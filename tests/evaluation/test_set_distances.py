"""Fréchet distance, kernel distance, precision and recall.

`fixtures/torch_fidelity.npz` holds features and what torch-fidelity 0.4.0 measured on them: 25
subsets of 30 by seed 11, 3 neighbors.
"""

import numpy as np
import pytest
import scipy.linalg

from igpt_keras.errors import InputError
from igpt_keras.evaluation.set_distances import (
    SetDistances,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from tests.conftest import FIXTURES


@pytest.fixture
def recorded():
    with np.load(FIXTURES / "torch_fidelity.npz") as file:
        return dict(file)


def features(count, dimension, seed=0):
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(dimension, dimension))
    return generator.normal(size=(count, dimension)) @ mixed + generator.normal(size=dimension)


def with_moments(mean, covariance, count, seed):
    """Samples whose mean and covariance are exactly these."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(axis=0)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(x, rowvar=False)), x.T)
    return (np.linalg.cholesky(covariance) @ white).T + mean


def test_torch_fidelity_measures_the_same(recorded):
    sets = recorded["generated"], recorded["real"]
    assert frechet_distance(*sets) == pytest.approx(
        float(recorded["frechet_inception_distance"]), rel=1e-10
    )
    kernel = kernel_distance(*sets, num_subsets=25, subset_size=30, seed=11)
    assert kernel == pytest.approx(
        [float(recorded[f"kernel_inception_distance_{name}"]) for name in ("mean", "std")],
        rel=1e-10,
    )
    shares = [float(recorded["precision"]), float(recorded["recall"])]
    assert 0 < min(shares) < max(shares) < 1
    assert precision_recall(*sets) == pytest.approx(shares, abs=1e-7)


def test_the_frechet_distance_of_gaussians_is_the_closed_form():
    # Commuting covariances: the squared difference of means and of standard deviations.
    first, second = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 0.25])
    axes, _ = np.linalg.qr(features(3, 3))
    sets = [
        with_moments(mean, axes * variances @ axes.T, 40, seed)
        for seed, (mean, variances) in enumerate([([1, 2, 3], first), ([1, 0, 4], second)])
    ]
    expected = 4 + 1 + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-12)
    # Any covariances: the definition with scipy's root.
    x, y = features(60, 5, 1), features(50, 5, 2)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.trace(scipy.linalg.sqrtm(a @ b)).real
    means = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum()
    expected = means + np.trace(a) + np.trace(b) - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_singular_covariances_lose_nothing():
    """Fewer images than features: the distance in the few directions that have any variance."""
    x, y = features(9, 4, 1), features(7, 4, 2)
    embedding, _ = np.linalg.qr(features(40, 4, 3))
    inside = frechet_distance(x, y)
    assert frechet_distance(x @ embedding.T, y @ embedding.T) == pytest.approx(inside, rel=1e-12)
    # Single precision and a mean far from 0, as of features after a ReLU.
    far = [(each + 1000).astype(np.float32) for each in (x, y)]
    assert frechet_distance(*far) == pytest.approx(inside, rel=1e-3)


def test_the_kernel_distance_is_the_sum_over_all_pairs():
    x, y = features(7, 3, 1), features(7, 3, 2)

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / 3 + 1) ** 3

    within = [kernel(s[i], s[j]) for s in (x, y) for i in range(7) for j in range(7) if i != j]
    across = [kernel(a, b) for a in x for b in y]
    expected = sum(within) / (7 * 6) - 2 * sum(across) / 49
    mean, deviation = kernel_distance(x, y, num_subsets=3, subset_size=7)
    assert mean == pytest.approx(expected, rel=1e-12)
    assert deviation == pytest.approx(0, abs=1e-9 * abs(mean))
    assert kernel_distance(x, y, seed=1) == kernel_distance(x, y, seed=1)
    assert kernel_distance(x, y, seed=1) != kernel_distance(x, y, seed=2)


def test_the_kernel_distance_of_two_halves_is_unbiased():
    """It varies around 0 on halves of one set, on which the Fréchet distance is positive."""
    every = features(4000, 4).reshape(40, 100, 4)
    pairs = list(zip(every[::2], every[1::2], strict=True))
    distances = np.array([kernel_distance(*pair, num_subsets=1, subset_size=100) for pair in pairs])
    error = distances[:, 0].std(ddof=1) / np.sqrt(len(pairs))
    assert abs(distances[:, 0].mean()) < 3 * error
    assert (distances[:, 0] < 0).any()
    assert min(frechet_distance(*pair) for pair in pairs) > 0


@pytest.mark.parametrize("num_neighbors", [1, 3])
@pytest.mark.parametrize("at_once", [1, 50, 1 << 24])
def test_precision_and_recall_are_those_of_the_definition(monkeypatch, num_neighbors, at_once):
    monkeypatch.setattr("igpt_keras.evaluation.set_distances.DISTANCES_AT_ONCE", at_once)
    x, y = features(30, 2, 1), features(24, 2, 2) * 0.7

    def share(points, centers):
        inside = 0
        for point in points:
            for center in centers:
                others = sorted(np.linalg.norm(center - other) for other in centers)
                if np.linalg.norm(point - center) <= others[num_neighbors]:
                    inside += 1
                    break
        return inside / len(points)

    expected = share(x, y), share(y, x)
    assert 0 < min(expected) < max(expected)
    assert precision_recall(x, y, num_neighbors=num_neighbors) == pytest.approx(expected)


def test_a_set_is_all_of_itself():
    x = features(50, 8).astype(np.float32)
    order = np.random.default_rng(1).permutation(50)
    distances = SetDistances.of(x[order], x)
    assert distances.frechet_distance == pytest.approx(0, abs=1e-10)
    assert (distances.precision, distances.recall) == (1, 1)
    # Images that occur several times have balls of radius 0, with themselves inside.
    wide = features(400, 301)
    repeated = np.repeat(wide[:200], 2, axis=0)
    for rows in (7, 50, 200):
        assert precision_recall(wide[:rows], repeated, num_neighbors=1)[0] == 1
    assert precision_recall(wide[200:], repeated, num_neighbors=1)[0] == 0


def test_real_images_are_compared_with_the_others():
    x = features(21, 3)
    distances = SetDistances.of_real_images(x, 8, seed=4)
    assert distances == SetDistances.of_real_images(x, 8, seed=4)
    assert distances != SetDistances.of_real_images(x, 8, seed=5)
    # Chosen at random: both sides lie in both places.
    apart = np.concatenate([features(40, 3), features(40, 3, 1) + 1e4])
    assert SetDistances.of_real_images(apart, 40).precision > 0.5
    with pytest.raises(InputError, match="real must hold at least 4 images, got 3"):
        SetDistances.of_real_images(x, 18)


@pytest.mark.parametrize(
    ("generated", "real", "message"),
    [
        ((5, 3), (5, 4), r"must have shapes \[N, d\] and \[M, d\], got \[5, 3\] and \[5, 4\]"),
        ((5,), (5, 4), r"got \[5\] and \[5, 4\]"),
        ((3, 4), (5, 4), "generated must hold at least 4 images, got 3"),
        ((5, 4), (3, 4), "real must hold at least 4 images, got 3"),
    ],
)
def test_what_cannot_be_compared_is_named(generated, real, message):
    with pytest.raises(InputError, match=message):
        precision_recall(np.ones(generated), np.ones(real))


def test_features_that_are_not_finite_are_refused():
    x = features(9, 3)
    bad = x.copy()
    bad[[1, 4], 0] = np.nan
    with pytest.raises(InputError, match="real must be finite; 2 images are not"):
        SetDistances.of(x, bad)
    with pytest.raises(InputError, match="generated must hold at least 10 images, got 9"):
        kernel_distance(x, x, subset_size=10)
