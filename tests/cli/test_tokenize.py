import numpy as np
import pytest

import igpt_keras
from igpt_keras.data.data_set import open_data
from igpt_keras.data.tokenization import read_images, tokenize
from igpt_keras.pipelines import read_outputs, write_tokens
from igpt_keras.runs import DataOptions, Evaluate, Finetune, Pretrain, Probe
from igpt_keras.runs.tokenizers import fit_palette
from tests.pipelines.serial import SerialRunner

TINY = {"num_layers": 1, "hidden_dim": 16, "num_heads": 1, "epochs": 2, "batch_size": 8}


def test_tokenize_a_folder(igpt, photos, tmp_path):
    pytest.importorskip("apache_beam")
    output = tmp_path / "tokens"
    words = ["tokenize", "--data", f"folder:{photos}", "--output", output, "--image-size", 4]
    words += ["--num-colors", 6, "--images-per-shard", 32]
    status, printed, errors = igpt(*words)
    assert (status, errors) == (0, "")
    counts = "36 train, 4 validation, 12 test images in 4 shards"
    assert printed == f"Wrote {output}: {counts}\n"
    data = open_data(f"tokens:{output}")
    palette = fit_palette(DataOptions.of(f"folder:{photos}"), 4, 6, 0).bind(4)
    expected = tokenize(open_data(f"folder:{photos}").train, palette)
    np.testing.assert_array_equal(tokenize(data.train, palette).tokens, expected.tokens)
    status, _, errors = igpt(*words, "--seed", 1)
    assert status == 2 and "began with tokenizer=" in errors
    status, _, errors = igpt(*words, "--runner", "Nobody")
    assert status == 2 and errors.startswith("igpt: error: runner=Nobody cannot be used")


@pytest.mark.slow
def test_bad_images_are_listed(igpt, photos, tmp_path):
    pytest.importorskip("apache_beam")
    bad = photos / "train" / "dark" / "3.png"
    bad.write_bytes(b"no image")
    words = ["tokenize", "--data", f"folder:{photos}", "--output", tmp_path / "tokens"]
    words += ["--tokenizer", "rgb", "--image-size", 4]
    status, _, errors = igpt(*words)
    assert status == 2 and f"{bad} cannot be read as an image" in errors
    status, printed, errors = igpt(*words, "--skip-bad-images")
    assert (status, errors) == (0, f"Skipped 1 bad image:\n  {bad}: no image\n")
    assert "35 train, 4 validation" in printed or "36 train, 3 validation" in printed


@pytest.mark.slow
def test_features_and_scores(igpt, photos, pretrained, tmp_path):
    pytest.importorskip("apache_beam")
    path, data = pretrained("ar"), f"folder:{photos}"
    arrays = {}
    for command in ("features", "score"):
        output = tmp_path / command
        status, printed, errors = igpt(command, path, "--data", data, "--output", output)
        assert (status, errors) == (0, "")
        assert "36 train, 4 validation, 12 test images in 3 shards" in printed
        (arrays[command],) = read_outputs(output, "test")
    model = igpt_keras.load(path)
    images = read_images(open_data(data).test, 4).images
    features = arrays["features"]["features"]
    np.testing.assert_allclose(features[1], model.features(images, layer=1), atol=1e-5)
    scores = arrays["score"]["log_likelihoods"]
    np.testing.assert_allclose(scores, model.score(images), rtol=1e-5)
    assert arrays["score"]["ids"][0] == "test/dark/0.png"


@pytest.fixture(scope="module")
def both(write_photos, tmp_path_factory):
    """The same images as images and as tokens."""
    folder = tmp_path_factory.mktemp("both")
    images = f"folder:{write_photos(folder / 'photos')}"
    settings = {"image_size": 4, "num_colors": 8, "runner": SerialRunner()}
    write_tokens(images, folder / "tokens", **settings)
    return images, f"tokens:{folder / 'tokens'}"


@pytest.fixture(scope="module")
def trained(both, tmp_path_factory):
    """A run on the tokens, for which neither a tokenizer nor an image size is given."""
    run = tmp_path_factory.mktemp("trained") / "run"
    return run, Pretrain.open(Pretrain.Settings(**TINY), both[1], run).run()


@pytest.mark.slow
def test_pretraining_takes_the_tokenizer_of_the_tokens(both, trained):
    run, result = trained
    model = igpt_keras.load(run)
    assert (model.config.image_size, model.config.vocabulary_size) == (4, 8)
    images = read_images(open_data(both[0]).test, 4).images
    assert result.metrics["test_loss"] == pytest.approx(-model.score(images).mean() / 16, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings", "keys"),
    [
        (Evaluate, {}, ("validation_loss", "test_loss", "baselines")),
        (Probe, {}, ("layers", "test_accuracy", "test_confusion")),
        (Probe, {"baseline": "tokens"}, ("layers", "test_accuracy")),
        (Finetune, {"epochs": 1, "learning_rate": 0.01}, ()),
    ],
    ids=["evaluate", "probe", "baseline", "finetune"],
)
def test_runs_on_tokens_measure_what_runs_on_images_do(
    both, trained, tmp_path, kind, settings, keys
):
    settings = kind.Settings(model=trained[0], **settings)
    of_images, of_tokens = (
        kind.open(settings, data, tmp_path / "run", overwrite=True).run().metrics for data in both
    )
    assert of_images.keys() == of_tokens.keys()
    for key in keys:
        assert of_images[key] == of_tokens[key], key
