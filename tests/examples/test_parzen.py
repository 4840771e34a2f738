"""Parzen windows against other densities of Gaussians, and Image GPT as a density."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.neighbors import KernelDensity

from igpt_keras import ColorPalette, ImageGPT, ImageGPTConfig, InputError, RGBTokenizer
from tests.examples.baselines import opened

gray_images = opened("gray_images")
parzen = opened("parzen")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(parzen, "BLOCK_SIZE", 3)


def random_images(validation=7, test=8, pixels=4):
    generator = np.random.default_rng(0)
    train, validation, test = (
        generator.uniform(size=(count, pixels)).astype(np.float32)
        for count in (5, validation, test)
    )
    return gray_images.GrayImages(train, validation, test, np.zeros(5, int), test, 16)


def by_scipy(images, samples, sigma):
    log_densities = norm.logpdf(images[:, None], samples, sigma).sum(axis=-1)
    return logsumexp(log_densities, axis=1) - np.log(len(samples))


def test_densities_are_means_of_gaussians():
    generator = np.random.default_rng(0)
    images, samples = generator.uniform(size=(7, 64)), generator.uniform(size=(5, 64))
    sigmas = np.array([0.02, 0.3])  # Where single densities underflow, and where they do not.
    found = parzen.log_densities(images, samples, sigmas)
    expected = [by_scipy(images, samples, sigma) for sigma in sigmas]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    for sigma, values in zip(sigmas, found, strict=True):
        # With a smaller leaf its bounds go wrong (scikit-learn issue 7492).
        density = KernelDensity(bandwidth=sigma, leaf_size=len(samples)).fit(samples)
        np.testing.assert_allclose(values, density.score_samples(images), rtol=1e-10)


def test_samples_of_a_gaussian_tend_to_the_gaussian_widened_by_the_window():
    generator = np.random.default_rng(0)
    samples, images = generator.normal(0, 0.8, (20_000, 2)), np.array([[0, 0], [0.5, -1]])
    found = parzen.log_densities(images, samples, np.array([0.6]))[0]
    np.testing.assert_allclose(found, norm.logpdf(images).sum(axis=1), atol=0.02)


def test_validation_images_decide_on_sigma():
    images = random_images()
    # The smallest would be the best for these test images.
    images = dataclasses.replace(images, test=images.train)
    sigmas = np.array([0.05, 0.2, 0.4, 0.8])
    row = parzen.estimate("training images", images.train, images, sigmas)
    means = [by_scipy(images.validation, images.train, sigma).mean() for sigma in sigmas]
    on_test = [by_scipy(images.test, images.train, sigma) for sigma in sigmas]
    best = int(np.argmax(means))
    assert 0 < best < 3
    assert (row.name, row.num_samples, row.sigma) == ("training images", 5, sigmas[best])
    assert row.log_likelihood == pytest.approx(on_test[best].mean())
    assert row.standard_error == pytest.approx(on_test[best].std() / np.sqrt(5))


def test_only_so_many_validation_images_are_used(monkeypatch):
    monkeypatch.setattr(parzen, "MAX_VALIDATION", 2)
    images = random_images(validation=2)
    more = gray_images.GrayImages(
        images.train,
        np.concatenate([images.validation, np.full((50, 4), 100)]),
        *(images.test, images.labels, images.test_images, 16),
    )
    assert parzen.estimate("", images.train, more) == parzen.estimate("", images.train, images)


# Three gray levels, each with a color of its own, or two of them with one.
@pytest.mark.parametrize("colors", [(-1, 0, 1), (-1, 0.6)])
def test_image_gpt_is_a_density(colors, randomized):
    palette = ColorPalette(np.repeat(colors, 3).reshape(-1, 3))
    config = ImageGPTConfig(2, len(colors), hidden_dim=8, num_layers=1, num_heads=1)
    model = randomized(ImageGPT(config, tokenizer=palette))
    levels = np.array(list(itertools.product([0, 128, 255], repeat=4)), np.uint8)
    images = np.repeat(levels.reshape(-1, 2, 2, 1), 3, axis=-1)
    found = gray_images.exact_log_densities(model, images, max_gray=2)
    # The images' intervals are half as long as the unit in each of four pixels.
    assert (np.exp(found) / 2**4).sum() == pytest.approx(1, rel=1e-5)
    if len(colors) == 3:
        np.testing.assert_allclose(found, model.score(images) + 4 * np.log(2), rtol=1e-6)


def test_tokens_must_be_colors():
    tokenizer = RGBTokenizer(image_size=2)
    config = ImageGPTConfig(2, 256, hidden_dim=8, num_layers=1, num_heads=1, grid=(2, 6))
    model = ImageGPT(config, tokenizer=tokenizer)
    with pytest.raises(InputError, match="must be a palette"):
        gray_images.exact_log_densities(model, np.zeros((1, 2, 2, 3), np.uint8), 255)


def test_images_are_multiples_of_their_levels():
    images = gray_images.read_gray_images("digits", image_size=8)
    assert [len(s) for s in (images.train, images.validation, images.test)] == [1257, 180, 360]
    np.testing.assert_array_equal(np.unique(images.train), np.arange(17) / 16)
    pictures = gray_images.to_pictures(images.test)
    np.testing.assert_array_equal(pictures, images.test_images)
    with pytest.raises(InputError, match="must be gray"):
        gray_images.gray_pixels(np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3), 255)


def test_a_table_leaves_out_what_an_exact_value_lacks():
    rows = [
        parzen.Row("GAN", 12.345, 0.678, num_samples=1257, sigma=0.1234),
        parzen.row_of("exact", np.array([1.0, 3.0])),
    ]
    assert parzen.table(rows).splitlines()[2:] == [
        "| GAN | 1,257 | 0.123 | 12.3 ± 0.7 |",
        "| exact |  |  | 2.0 ± 0.7 |",
    ]
