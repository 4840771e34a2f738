import numpy as np
import pytest

from igpt_keras import ColorPalette, ImageGPT, InputError
from igpt_keras.data.data_set import open_data
from igpt_keras.data.tokenization import read_images, tokenize
from igpt_keras.evaluation.features import FeatureExtractor
from igpt_keras.pipelines.outputs import read_outputs, write_features, write_scores
from igpt_keras.pipelines.tokens import write_tokens
from tests.pipelines.serial import SerialRunner

SETTINGS = {"images_per_shard": 32, "batch_size": 20, "runner": SerialRunner()}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A source of 70 images to train and 9 to test, 4×4."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    generator = np.random.default_rng(0)
    arrays = {
        f"{split}_images": generator.integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
        for split, count in (("train", 70), ("validation", 5), ("test", 9))
    }
    labels = {"test_labels": np.arange(9) % 3, "train_labels": np.arange(70) % 3}
    np.savez(path, **arrays, **labels, validation_labels=np.arange(5) % 3)
    return f"array:{path}"


@pytest.fixture(scope="module", params=["ar", "bert"])
def model(request, config, randomized, tmp_path_factory):
    """A model with random weights, and its folder."""
    palette = ColorPalette(np.random.default_rng(1).uniform(-1, 1, (8, 3)))
    model = randomized(ImageGPT(config, request.param, tokenizer=palette.bind(4)))
    folder = tmp_path_factory.mktemp("models") / request.param
    model.save_to_preset(folder)
    return model, folder


def joined(folder, split, key, axis=0):
    return np.concatenate([arrays[key] for arrays in read_outputs(folder, split)], axis=axis)


@pytest.mark.slow
def test_features_are_those_of_one_process(model, images, tmp_path):
    model, path = model
    output = tmp_path / "features"
    manifest = write_features(path, images, output, seed=2, **SETTINGS)
    assert manifest.num_examples == {"train": 70, "validation": 5, "test": 9}
    for split in ("train", "test"):
        tokens = tokenize(getattr(open_data(images), split), model.tokenizer)
        expected = FeatureExtractor(model, tmp_path / "one", seed=2).features(tokens.tokens)
        np.testing.assert_allclose(joined(output, split, "features", 1), expected, atol=1e-5)
        np.testing.assert_array_equal(joined(output, split, "labels"), tokens.labels)
    assert joined(output, "train", "ids").tolist() == [str(index) for index in range(70)]
    assert write_features(path, images, output, seed=2, **SETTINGS) == manifest
    with pytest.raises(InputError, match="began with seed=2, got 3"):
        write_features(path, images, output, seed=3, **SETTINGS)


@pytest.mark.slow
def test_log_likelihoods_are_those_of_one_process(model, images, tmp_path):
    model, path = model
    output = tmp_path / "scores"
    if model.objective == "bert":
        with pytest.raises(InputError, match="needs a model with objective"):
            write_scores(path, images, output, **SETTINGS)
        assert not output.exists()
        return
    write_tokens(
        images,
        tmp_path / "tokens",
        tokenizer=model.tokenizer,
        images_per_shard=32,
        runner=SerialRunner(),
    )
    write_scores(path, images, output, **SETTINGS)
    write_scores(path, f"tokens:{tmp_path / 'tokens'}", tmp_path / "of-tokens", **SETTINGS)
    expected = model.score(read_images(open_data(images).train, 4).images)
    for folder in (output, tmp_path / "of-tokens"):
        scores = joined(folder, "train", "log_likelihoods")
        np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_folders_without_outputs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither features\.json nor scores\.json"):
        next(read_outputs(tmp_path, "train"))
