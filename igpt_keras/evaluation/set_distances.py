"""Distances between two sets of features: how much generated images resemble real ones.

Everything is computed in float64. Shapes: N generated and M real images with d features each.
"""

import dataclasses

import numpy as np

from igpt_keras.errors import InputError

NUM_SUBSETS = 100
SUBSET_SIZE = 1000
NUM_NEIGHBORS = 3
# Distances that are computed at once; 128 MB.
DISTANCES_AT_ONCE = 1 << 24
# Squared distances below this share of the squared norms are rounding errors of equal vectors.
ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class SetDistances:
    """How a set of generated images compares with a set of real ones.

    On Inception features these are the published FID, KID, precision and recall; on other
    features they are not, and compare only with numbers on the same features.

    Attributes:
        frechet_distance: As of `frechet_distance`.
        kernel_distance: As of `kernel_distance`, the mean over subsets.
        kernel_distance_std: The standard deviation over subsets.
        precision: Share of the generated images that lie among the real ones.
        recall: Share of the real images that lie among the generated ones.
    """

    frechet_distance: float
    kernel_distance: float
    kernel_distance_std: float
    precision: float
    recall: float

    @classmethod
    def of(cls, generated: np.ndarray, real: np.ndarray, *, seed: int = 0) -> "SetDistances":
        """Compares the features of two sets of images.

        Args:
            generated: float [N, d].
            real: float [M, d].
            seed: Seed of the subsets of `kernel_distance`.

        Raises:
            InputError: A set has fewer than four images, or the features cannot be compared.

        Example:
            ```python
            from igpt_keras.evaluation.set_distances import SetDistances

            generator = np.random.default_rng(0)
            sets = generator.normal(size=(2, 500, 8))
            SetDistances.of(sets[0], sets[1]).recall  # 0.9…
            ```
        """
        kernel, deviation = kernel_distance(generated, real, seed=seed)
        precision, recall = precision_recall(generated, real)
        frechet = frechet_distance(generated, real)
        return cls(frechet, kernel, deviation, precision, recall)

    @classmethod
    def of_real_images(cls, real: np.ndarray, count: int, *, seed: int = 0) -> "SetDistances":
        """Compares random images of a set with its others: what chance alone brings about.

        Args:
            real: float [M, d].
            count: Number of images to compare with the other M - `count`, at least four.
            seed: Seed of the choice and of the subsets of `kernel_distance`.

        Raises:
            InputError: Fewer than four images are on one side.
        """
        order = np.random.default_rng(seed).permutation(len(real))
        return cls.of(real[order[:count]], real[order[count:]], seed=seed)


def frechet_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """Returns the squared Fréchet distance between the Gaussians of two sets' moments.

    |μ₁ - μ₂|² + Tr Σ₁ + Tr Σ₂ - 2 Tr (Σ₁Σ₂)^½ (Heusel et al., 2017, section 3), with covariances
    over N - 1. With Σ = RᵀR, the last trace is the sum of the singular values of R₁R₂ᵀ. R comes
    from the features by a QR decomposition, so that no covariance is multiplied or rooted, and
    nothing is lost where there are fewer images than features.

    The moments of few images are uncertain, which makes the distance larger the fewer they are:
    compare it only between sets of the same size.

    Args:
        generated: float [N, d], N at least 2.
        real: float [M, d], M at least 2.

    Raises:
        InputError: The features cannot be compared, or there are too few.
    """
    generated, real = _checked(generated, real, least=2)
    (mean_1, root_1), (mean_2, root_2) = _moments(generated), _moments(real)
    traces = (root_1**2).sum() + (root_2**2).sum()
    common = np.linalg.svd(root_1 @ root_2.T, compute_uv=False).sum()
    distance = ((mean_1 - mean_2) ** 2).sum() + traces - 2 * common
    return max(float(distance), 0.0)


def kernel_distance(
    generated: np.ndarray,
    real: np.ndarray,
    *,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the squared maximum mean discrepancy, mean and standard deviation over subsets.

    The unbiased estimate with the kernel (x·y / d + 1)³ (Bińkowski et al., 2018, section 4); on
    Inception features, KID. It does not grow as the sets shrink, and may be negative. Subsets are
    drawn as torch-fidelity draws them, so that the same features give the same numbers.

    Args:
        generated: float [N, d].
        real: float [M, d].
        num_subsets: Number of pairs of random subsets.
        subset_size: Images in a subset, at least 2; by default that of `default_subset_size`.
        seed: Seed of the subsets.

    Raises:
        InputError: The features cannot be compared, or a set is smaller than its subsets.
    """
    size = default_subset_size(generated, real) if subset_size is None else subset_size
    generated, real = _checked(generated, real, least=max(size, 2))
    generator = np.random.RandomState(seed)
    distances = []
    for _ in range(num_subsets):
        x = generated[generator.choice(len(generated), size, replace=False)]
        y = real[generator.choice(len(real), size, replace=False)]
        within = _without_diagonal(_kernel(x, x)) + _without_diagonal(_kernel(y, y))
        distances.append(within / (size * (size - 1)) - 2 * _kernel(x, y).mean())
    return float(np.mean(distances)), float(np.std(distances))


def default_subset_size(generated: np.ndarray, real: np.ndarray) -> int:
    """Returns the paper's 1,000, or half of the smaller set where that is less."""
    return max(min(SUBSET_SIZE, len(generated) // 2, len(real) // 2), 2)


def precision_recall(
    generated: np.ndarray, real: np.ndarray, *, num_neighbors: int = NUM_NEIGHBORS
) -> tuple[float, float]:
    """Returns the improved precision and recall (Kynkäänniemi et al., 2019, section 3).

    An image lies among those of a set if it is at most as far from one of them as that one's
    `num_neighbors`-th nearest neighbor in its own set. Precision is the share of generated images
    among the real ones, recall that of real images among the generated ones.

    Args:
        generated: float [N, d], N above `num_neighbors`.
        real: float [M, d], likewise.
        num_neighbors: k.

    Raises:
        InputError: The features cannot be compared, or there are too few.
    """
    generated, real = _checked(generated, real, least=num_neighbors + 1)
    # Distances are differences of norms: those about the center are smaller and round less.
    center = real.mean(axis=0)
    generated, real = generated - center, real - center
    radii_of_generated = _squared_radii(generated, num_neighbors)
    radii_of_real = _squared_radii(real, num_neighbors)
    among_real, among_generated = [], np.zeros(len(real), bool)
    for block, radii in zip(
        _blocks(generated, len(real)), _blocks(radii_of_generated, len(real)), strict=True
    ):
        distances = _squared_distances(block, real)
        among_real.append((distances <= radii_of_real).any(axis=1))
        among_generated |= (distances <= radii[:, None]).any(axis=0)
    return float(np.concatenate(among_real).mean()), float(among_generated.mean())


def _checked(generated: np.ndarray, real: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns both sets in float64."""
    for name, features in (("generated", generated), ("real", real)):
        if features.ndim != 2 or features.shape[1] != real.shape[-1]:
            raise InputError(
                f"generated and real must have shapes [N, d] and [M, d], got "
                f"{list(generated.shape)} and {list(real.shape)}"
            )
        if len(features) < least:
            raise InputError(f"{name} must hold at least {least} images, got {len(features)}")
        if not np.isfinite(features).all():
            raise InputError(f"{name} must be finite; {_count_bad(features)} images are not")
    return generated.astype(np.float64), real.astype(np.float64)


def _count_bad(features: np.ndarray) -> int:
    return int((~np.isfinite(features).all(axis=1)).sum())


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean [d], and an R with RᵀR the covariance, [min(N, d), d]."""
    mean = features.mean(axis=0)
    root = np.linalg.qr(features - mean, mode="r")
    return mean, root / np.sqrt(len(features) - 1)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T / x.shape[1] + 1
    return base * base * base  # A power takes several times as long.


def _without_diagonal(kernel: np.ndarray) -> float:
    return float(kernel.sum() - np.trace(kernel))


def _squared_radii(features: np.ndarray, num_neighbors: int) -> np.ndarray:
    """Returns the squared distance of each of [N, d] to its neighbor of that number, [N]."""
    distances = [
        np.partition(_squared_distances(block, features), num_neighbors, axis=1)[:, num_neighbors]
        for block in _blocks(features, len(features))
    ]
    # Number 0 is the image itself.
    return np.concatenate(distances)


def _blocks(array: np.ndarray, num_others: int) -> list[np.ndarray]:
    """Cuts an array up so that the distances of a block to that many others fit into memory."""
    rows = max(DISTANCES_AT_ONCE // num_others, 1)
    return [array[start : start + rows] for start in range(0, len(array), rows)]


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns [len(x), len(y)], exactly 0 for equal vectors."""
    norms = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)
    distances = norms - 2 * x @ y.T
    distances[distances < ROUNDING * norms] = 0
    return distances
