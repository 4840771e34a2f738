"""The log-likelihood of test images by Parzen windows, as in Goodfellow et al. (2014).

    python examples/baselines/parzen.py --data digits
    python examples/baselines/parzen.py --data digits --model runs/digits sampled

The estimate puts a Gaussian around each of some samples of a model, and takes the density of the
mixture at the test images. This prints it for training images, k-means centers and noise, which
show how far it can be trusted; for the samples of an Image GPT, next to its exact likelihood; and
for other sets of images, such as `igpt sample` writes. Images must be gray.
"""

import argparse
import dataclasses

import numpy as np
from gray_images import GrayImages, exact_log_densities, gray_pixels, read_gray_images
from scipy.special import logsumexp
from sklearn.cluster import KMeans

import igpt_keras
from igpt_keras.data.sample_sets import SampleSet

# The released code tries 10 values. Between two of them a digit loses up to a nat.
SIGMAS = np.logspace(-1, 0, 50)
MAX_SAMPLES = 10_000
MAX_VALIDATION = 1_000
NUM_CENTERS = 300
# Images whose distances to all samples are in memory together.
BLOCK_SIZE = 100


def log_densities(images: np.ndarray, samples: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Returns log densities of images under mixtures of Gaussians around samples.

    They are logmeanexp(-|x - s|² / 2σ²) - d log(σ √2π), the mean taken over the samples s.

    Args:
        images: float [N, d].
        samples: float [M, d].
        sigmas: float [S], a standard deviation for each mixture.

    Returns:
        float64 [S, N], nats.

    Example:
        >>> log_densities(np.zeros((1, 2)), np.zeros((5, 2)), np.ones(1))
        array([[-1.83787707]])
    """
    samples = samples.astype(np.float64)
    norms = (samples**2).sum(axis=1)
    blocks = []
    for block in np.split(images.astype(np.float64), range(BLOCK_SIZE, len(images), BLOCK_SIZE)):
        squares = (block**2).sum(axis=1)[:, None] + norms - 2 * block @ samples.T
        blocks.append([logsumexp(-squares / (2 * sigma**2), axis=1) for sigma in sigmas])
    constants = np.log(len(samples)) + images.shape[1] * np.log(sigmas * np.sqrt(2 * np.pi))
    return np.concatenate(blocks, axis=1) - constants[:, None]


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: a log-likelihood of the test images.

    Attributes:
        name: What it is of.
        log_likelihood: Mean over the test images, nats.
        standard_error: Of the mean.
        num_samples: Number of samples; None if the value is exact, not an estimate.
        sigma: Standard deviation of the Gaussians.
    """

    name: str
    log_likelihood: float
    standard_error: float
    num_samples: int | None = None
    sigma: float | None = None


def row_of(name: str, values: np.ndarray, num_samples=None, sigma=None) -> Row:
    """Returns the row for log-likelihoods of all test images, float [N]."""
    error = values.std() / np.sqrt(len(values))
    return Row(name, float(values.mean()), float(error), num_samples, sigma)


def estimate(
    name: str, samples: np.ndarray, images: GrayImages, sigmas: np.ndarray = SIGMAS
) -> Row:
    """Estimates the log-likelihood of the test images from samples of a model.

    The σ of the largest mean log-likelihood of validation images is used.

    Args:
        name: What drew the samples.
        samples: float [M, d], pixels from 0 to 1.
        images: The validation and test images.
        sigmas: float [S], what to choose σ from.
    """
    validation = log_densities(images.validation[:MAX_VALIDATION], samples, sigmas)
    best = sigmas[[validation.mean(axis=1).argmax()]]
    return row_of(name, log_densities(images.test, samples, best)[0], len(samples), float(best[0]))


def sanity_rows(images: GrayImages, num_samples: int, seed: int = 0) -> list[Row]:
    """Returns the rows for training images, k-means centers and noise as samples.

    Training images come a second time, as few as there are centers.
    """
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(images.train))[:num_samples]
    kmeans = KMeans(NUM_CENTERS, n_init=1, random_state=seed)  # pyright: ignore[reportArgumentType]
    noise = generator.uniform(size=(num_samples, images.train.shape[1]))
    return [
        estimate("training images", images.train[chosen], images),
        estimate("training images", images.train[chosen[:NUM_CENTERS]], images),
        estimate("k-means centers", kmeans.fit(images.train).cluster_centers_, images),
        estimate("uniform noise", noise, images),
    ]


def image_gpt_rows(model: igpt_keras.ImageGPT, samples: np.ndarray, images: GrayImages):
    """Returns the rows for a model's samples, uint8 [M, R, R, 3], and its exact likelihood."""
    exact = exact_log_densities(model, images.test_images, images.max_gray)
    pixels = gray_pixels(samples, images.max_gray)
    return [estimate("Image GPT", pixels, images), row_of("Image GPT, exact", exact)]


def table(rows: list[Row]) -> str:
    """Returns rows as a table in Markdown."""
    lines = ["| samples | number | σ | log-likelihood, nats |", "| --- | --- | --- | --- |"]
    for row in rows:
        number = "" if row.num_samples is None else f"{row.num_samples:,}"
        sigma = "" if row.sigma is None else f"{row.sigma:.3f}"
        value = f"{row.log_likelihood:.1f} ± {row.standard_error:.1f}"
        lines.append(f"| {row.name} | {number} | {sigma} | {value} |")
    return "\n".join(lines)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the options that scripts for this table share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="digits", help="gray images, such as tfds:mnist")
    parser.add_argument("--image-size", type=int, default=8, help="their side in pixels")
    parser.add_argument("--model", help="an Image GPT, such as the folder of igpt pretrain")
    parser.add_argument(
        "--num-samples", type=int, help="default: as many as training images, at most 10,000"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("sets", nargs="*", help="sets of images, such as folders of igpt sample")
    options = parser.parse_args()
    images = read_gray_images(options.data, options.image_size)
    num_samples = options.num_samples or min(MAX_SAMPLES, len(images.train))
    rows = sanity_rows(images, num_samples, options.seed)
    for path in options.sets:
        samples = np.concatenate(list(SampleSet(path).batches(options.image_size)))
        rows.append(estimate(path, gray_pixels(samples, images.max_gray), images))
    if options.model:
        model = igpt_keras.load(options.model)
        samples = model.sample(num_samples, seed=options.seed).images[:, 0]
        rows += image_gpt_rows(model, samples, images)
    print(table(rows))


if __name__ == "__main__":
    main()
