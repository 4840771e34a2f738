"""The model that comes with the package."""

import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import igpt_keras
from igpt_keras import ImageGPTConfig
from igpt_keras.cli.options import SHIPPED_MODEL
from igpt_keras.data.image_decoding import read_image
from igpt_keras.pipelines import read_outputs
from igpt_keras.saving import SHIPPED, read_training

FOLDER = SHIPPED / SHIPPED_MODEL
# Of the wheel, in bytes.
MAX_SIZE = 25_000_000
# Recorded when the model was added, so that a change of its files or of the network is seen.
NATS = [2.37517, 2.17892]
TOKENS = [21, 34, 21, 53, 33, 35, 35, 23, 17, 15, 23, 15, 15, 11, 11, 7]


@pytest.fixture(scope="module")
def model():
    return igpt_keras.ImageGPT.from_preset(SHIPPED_MODEL)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> list[pathlib.Path]:
    """Scikit-learn's two photographs, of a temple and of a flower, as files."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = [folder / "temple.png", folder / "flower.png"]
    for path, pixels in zip(paths, load_sample_images().images, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture(scope="module")
def images(photographs, model):
    return np.stack([read_image(path, model.config.image_size) for path in photographs])


def test_it_has_the_sizes_of_its_name_and_is_small(model):
    assert model.config == ImageGPTConfig.preset(SHIPPED_MODEL)
    assert model.tokenizer.vocabulary_size == model.config.vocabulary_size
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MAX_SIZE
    assert (FOLDER / "MODEL_CARD.md").is_file()
    assert read_training(SHIPPED_MODEL)["held_out_nats_per_pixel"] > 0


def test_it_gives_photographs_the_recorded_likelihood(model, images):
    nats = -model.score(images) / model.config.sequence_length
    np.testing.assert_allclose(nats, NATS, atol=1e-4)


def test_it_prefers_photographs_to_their_shuffled_pixels(model, images):
    """Shuffled pixels have the same colors, so only their arrangement makes the difference."""
    pixels = images.reshape(len(images), -1, 3)
    shuffled = np.random.default_rng(0).permuted(pixels, axis=1).reshape(images.shape)
    assert np.all(model.score(images) > model.score(shuffled) + 100)


def test_it_completes_with_the_recorded_tokens(model, images):
    completions = model.generate(images[:1], keep_rows=15, seed=0)
    assert completions.tokens[0, 0, -len(TOKENS) :].tolist() == TOKENS


def test_a_photograph_is_completed_without_any_option(igpt, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed, errors = igpt("complete", photographs[0])
    assert status == 0, errors
    assert "Wrote 4 completions and contact-sheet.png to completed" in printed
    assert (tmp_path / "completed" / "contact-sheet.png").is_file()


@pytest.mark.slow
def test_photographs_are_scored_without_naming_a_model(igpt, photographs, tmp_path):
    pytest.importorskip("apache_beam")
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for index, path in enumerate(photographs):
            shutil.copy(path, tmp_path / "data" / split / f"{index}.png")
    arrays = {}
    for command in ("features", "score"):
        output = tmp_path / command
        status, _, errors = igpt(
            command, "--data", f"folder:{tmp_path / 'data'}", "--output", output
        )
        assert status == 0, errors
        (arrays[command],) = read_outputs(output, "test")
    nats = -arrays["score"]["log_likelihoods"] / 16**2
    np.testing.assert_allclose(nats, NATS, atol=1e-4)
    assert arrays["features"]["features"].shape == (4 + 1, 2, 128)
