"""Completions and samples as runs; what is in the files, the tests of the command line check."""

import numpy as np
import pytest
from PIL import Image

import igpt_keras
from igpt_keras import InputError
from igpt_keras.data.image_decoding import read_image
from igpt_keras.runs import Complete, RunCallback, Sample, read_result
from igpt_keras.runs.complete import likelihoods
from igpt_keras.sampling.requests import Completions
from igpt_keras.sampling.samplers import TopK
from tests.tokenizers.mean_blocks import MeanBlocks


@pytest.fixture
def model(config, palette, randomized, tmp_path):
    return randomized(igpt_keras.ImageGPT(config, tokenizer=palette)).save_to_preset(
        tmp_path / "model"
    )


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_completions_are_returned_and_written_and_nothing_is_printed(model, photo, tmp_path, capfd):
    settings = Complete.Settings(
        model=model, keep_rows=2, num_completions=3, sampler=TopK(2), seed=4
    )
    rows = []

    class Rows(RunCallback):
        def on_progress(self, stage, done, total):
            rows.append((stage, done, total))

    result = Complete.open(settings, [photo], tmp_path / "out").run([Rows()])
    assert capfd.readouterr().out == ""
    assert result == read_result(tmp_path / "out")
    assert rows == [("rows", done, 4) for done in range(1, 5)]
    assert result.settings["sampler"] == {"k": 2, "temperature": 1.0}
    expected = igpt_keras.load(model).generate(
        read_image(photo, 4)[None], keep_rows=2, num_completions=3, sampler=TopK(2), seed=4
    )
    for number, record in enumerate(result.metrics["completions"]):
        written = np.asarray(Image.open(tmp_path / "out" / record["file"]))
        np.testing.assert_array_equal(written, expected.images[0, number])
        assert record["log_likelihood"] == pytest.approx(float(expected.log_likelihood[0, number]))
    again = Complete.open(settings, [photo], tmp_path / "out", resume=True)
    assert again.finished and again.run() == result


def test_likelihoods_are_of_tokens_and_bits_of_pixels():
    """Of 12 tokens for 4 × 4 pixels, those of 3 unknown pixels are sampled."""
    completions = Completions(
        images=np.zeros((1, 1, 4, 4, 3), np.uint8),
        tokens=np.zeros((1, 1, 12), np.int32),
        log_likelihood=np.full((1, 1), -6 * np.log(2)),
        total_log_likelihood=np.full((1, 1), -40 * np.log(2)),
    )
    (record,) = likelihoods(completions, [["a.png"]], num_sampled=3)
    assert record["bits_per_sampled_pixel"] == pytest.approx(6 / 3)
    assert record["bits_per_pixel"] == pytest.approx(40 / 16)


@pytest.mark.slow
def test_tokens_that_are_no_pixels(photo, randomized, tmp_path):
    """Rows of pixels of which some tokens are known in part, and a picture of their entropy."""
    config = igpt_keras.ImageGPTConfig(4, 4, 16, 1, 2, grid=(2, 2))
    tokenizer = MeanBlocks(4, levels=[0, 80, 160, 255])
    folder = tmp_path / "model"
    randomized(igpt_keras.ImageGPT(config, tokenizer=tokenizer)).save_to_preset(folder)
    settings = Complete.Settings(model=folder, keep_rows=3, entropy=True)

    class Rows(RunCallback):
        def on_progress(self, stage, done, total):
            raise AssertionError("rows come at the end")

    result = Complete.open(settings, [photo], tmp_path / "out").run([Rows()])
    for record in result.metrics["completions"]:
        written = np.asarray(Image.open(tmp_path / "out" / record["file"]))
        np.testing.assert_array_equal(written[:3], read_image(photo, 4)[:3])
    assert (tmp_path / "out" / "entropy.png").exists()


def test_samples(model, tmp_path):
    settings = Sample.Settings(model=model, num_samples=3, seed=1)
    result = Sample.open(settings, None, tmp_path / "out").run()
    expected = igpt_keras.load(model).sample(3, seed=1).images[:, 0]
    for image, record in zip(expected, result.metrics["completions"], strict=True):
        np.testing.assert_array_equal(Image.open(tmp_path / "out" / record["file"]), image)


@pytest.mark.slow
def test_the_precision_is_that_of_the_weights(model, photo, tmp_path):
    images = read_image(photo, 4)[None]
    likelihoods = {}
    for precision in ("float32", "bfloat16"):
        settings = Complete.Settings(
            model=model, keep_rows=2, num_completions=2, precision=precision
        )
        result = Complete.open(settings, [photo], tmp_path / precision).run()
        assert result.settings["precision"] == precision
        loaded = igpt_keras.load(model, dtype=precision)
        expected = loaded.generate(images, keep_rows=2, num_completions=2)
        likelihoods[precision] = [each["log_likelihood"] for each in result.metrics["completions"]]
        np.testing.assert_allclose(likelihoods[precision], expected.log_likelihood[0], rtol=1e-5)
    assert likelihoods["float32"] != likelihoods["bfloat16"]


def test_what_does_not_fit_leaves_no_folder(model, photo, tmp_path):
    with pytest.raises(InputError, match="give either keep_rows or mask"):
        Complete.Settings(model=model, keep_rows=2, mask=photo)
    with pytest.raises(InputError, match="float32 or bfloat16, got 'float8'"):
        Complete.Settings(model=model, precision="float8")
    settings = Complete.Settings(model=model, keep_rows=2)
    for data, message in (([], "at least one image"), ([tmp_path / "no.png"], "no.png")):
        with pytest.raises((InputError, OSError), match=message):
            Complete.open(settings, data, tmp_path / "out")
    with pytest.raises(InputError, match="keep_rows must lie in 0…4"):
        Complete.open(Complete.Settings(model=model, keep_rows=5), [photo], tmp_path / "out").run()
    with pytest.raises(InputError, match="data must be None"):
        Sample.open(Sample.Settings(model=model), "digits", tmp_path / "out")
    assert not (tmp_path / "out").exists()
