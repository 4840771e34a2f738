import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

import igpt_keras
from igpt_keras.data.data_set import open_data
from igpt_keras.data.image_decoding import read_image
from igpt_keras.data.tokenization import tokenize
from igpt_keras.evaluation.set_distances import SetDistances
from igpt_keras.pictures.contact_sheets import save_png
from igpt_keras.runs import DataOptions, Evaluate, RunCallback
from igpt_keras.runs.result import read_result


def test_evaluate_a_generative_model_and_its_baselines(igpt, photos, pretrained, tmp_path):
    path = pretrained("ar")
    run = tmp_path / "run"
    status, printed, _ = igpt("evaluate", path, "--data", f"folder:{photos}", "--output", run)
    assert status == 0
    result = read_result(run)
    metrics = result.metrics
    assert (result.kind, result.model["name"]) == ("evaluate", "before")
    model = igpt_keras.load(path)
    files = sorted(photos.glob("test/*/*.png"))
    images = np.stack([read_image(file, 4) for file in files])
    model.compile()
    tokens = model.tokenizer.tokenize(images)
    nll = model.evaluate(tokens, verbose=0, return_dict=True)["loss"]
    assert metrics["test_loss"] == pytest.approx(nll, abs=1e-5)
    assert metrics["test_bits_per_pixel"] == pytest.approx(nll / math.log(2), abs=1e-5)
    assert metrics["validation_loss"] != metrics["test_loss"]
    train = tokenize(open_data(f"folder:{photos}").train, model.tokenizer).tokens
    counts = 1 + np.bincount(train.ravel(), minlength=8)
    unigram = -np.log(counts / counts.sum())[tokens].mean()
    assert metrics["baselines"]["test"]["unigram"] == pytest.approx(unigram)
    for split in ("validation", "test"):
        assert metrics["baselines"][split]["uniform"] == pytest.approx(math.log(8))
        assert f"{metrics[f'{split}_loss']:.4f}" in printed
    assert "test_accuracy" not in metrics


def test_evaluate_a_classifier(igpt, photos, pretrained, tmp_path):
    path = pretrained(
        "bert", igpt_keras.ImageGPTClassifier, num_classes=2, class_names=["dark", "light"]
    )
    run = tmp_path / "run"
    status, printed, _ = igpt(
        *("evaluate", path, "--data", f"folder:{photos}", "--output", run, "--no-baselines")
    )
    assert status == 0
    metrics = read_result(run).metrics
    for split, count in (("validation", 4), ("test", 12)):
        for name in ("accuracy", "single_mask_accuracy"):
            share = metrics[f"{split}_{name}"]
            assert 0 <= share <= 1
            assert share * count == pytest.approx(round(share * count))
        assert f"{metrics[f'{split}_accuracy']:.2%}" in printed
        matrix = np.array(metrics[f"{split}_confusion"]["matrix"])
        assert matrix.sum() == count
        assert np.trace(matrix) == round(metrics[f"{split}_accuracy"] * count)
    assert (run / "confusions.png").is_file() == (metrics["test_accuracy"] < 1)
    assert metrics["votes"] == 5
    assert "baselines" not in metrics


def test_evaluate_images_without_labels_or_test_part(igpt, photos, pretrained, tmp_path):
    run = tmp_path / "run"
    path, data = pretrained("ar"), f"folder:{photos / 'train' / 'dark'}"
    status, _, _ = igpt("evaluate", path, "--data", data, "--output", run)
    assert status == 0
    metrics = read_result(run).metrics
    assert "test_loss" not in metrics
    assert set(metrics["baselines"]) == {"validation"}
    status, _, error = igpt(
        *("evaluate", path, "--data", data, "--output", tmp_path / "other", "--train-on-validation")
    )
    assert status == 2
    assert "neither a validation split nor a test split" in error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"palette": False}, "has no tokenizer"),
        (
            {
                "model_class": igpt_keras.ImageGPTClassifier,
                "num_classes": 6,
                "class_names": ["cat", "dog", "owl", "ant", "bee", "cow"],
            },
            "cat, dog, owl, ant, bee, … (6 in all); got dark, light",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_named(igpt, photos, pretrained, tmp_path, settings, message):
    status, _, error = igpt(
        *("evaluate", pretrained("ar", **settings), "--data", f"folder:{photos}"),
        *("--output", tmp_path / "run"),
    )
    assert status == 2
    assert message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_samples_are_compared_with_the_reference(igpt, photos, pretrained, tmp_path):
    path, run = pretrained("ar"), tmp_path / "run"
    arguments = (path, "--data", f"folder:{photos}", "--no-baselines", "--seed", 3)
    features = ("--features", f"model:{path}")
    status, printed, errors = igpt(
        "evaluate", *arguments, *features, "--samples", 40, "--output", run
    )
    assert status == 0
    model = igpt_keras.load(path)
    samples = np.load(run / "samples.npz")["arr_0"]
    np.testing.assert_array_equal(samples, model.sample(40, seed=3).images[:, 0])
    real = np.stack([read_image(file, 4) for file in sorted(photos.glob("test/*/*.png"))])
    of_samples, of_real = model.features(samples, layer=1), model.features(real, layer=1)
    expected = dataclasses.asdict(SetDistances.of(of_samples, of_real, seed=3))
    result = read_result(run)
    metrics, settings = result.metrics["samples"], result.settings["samples"]
    real_images = metrics.pop("real_images")
    assert metrics == pytest.approx(expected, rel=1e-4)
    among_real = dataclasses.asdict(SetDistances.of_real_images(of_real, 6, seed=3))
    counts = {"num_images": 6, "num_others": 6}
    assert real_images == pytest.approx(among_real | counts, rel=1e-4)
    assert settings["samples"]["num_images"] == 40
    assert settings["reference"]["split"] == "test"
    assert settings["reference"]["num_images"] == 12
    assert settings["features"]["dimension"] == 16
    assert f"{metrics['frechet_distance']:.4f}" in printed
    assert "Fréchet distance (not FID)" in printed and "kernel distance (not KID)" in printed
    assert printed.count("FID") == printed.count("KID") == 1
    assert "Real images: 6 test images with 6 others" in printed
    assert "12 images are too few for the covariance of 16 features" in errors
    assert not list(tmp_path.glob("run-*"))
    # The same set from its file.
    again = tmp_path / "again"
    status, _, _ = igpt("evaluate", *arguments, *features, "--samples", run, "--output", again)
    assert status == 0
    repeated = read_result(again)
    assert repeated.metrics["samples"] == metrics | {"real_images": real_images}
    assert repeated.settings["samples"]["samples"]["path"] == str(run / "samples.npz")


def test_the_reference_is_all_of_itself(igpt, photos, pretrained, tmp_path):
    (tmp_path / "set").mkdir()
    for number, file in enumerate(sorted(photos.glob("train/*/*.png"))):
        enlarged = Image.open(file).resize((12, 12), Image.Resampling.NEAREST)
        save_png(enlarged, tmp_path / "set" / f"{number}.png")
    path = pretrained("ar")
    status, printed, _ = igpt(
        *("evaluate", path, "--data", f"folder:{photos}", "--train-on-validation"),
        *("--no-baselines", "--samples", tmp_path / "set", "--reference", "train"),
        *("--features", f"model:{path}", "--output", tmp_path / "run"),
    )
    assert status == 0
    result = read_result(tmp_path / "run")
    assert result.settings["samples"]["samples"]["format"] == "png"
    assert result.metrics["samples"]["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert result.metrics["samples"]["precision"] == result.metrics["samples"]["recall"] == 1
    assert "Samples, at 4×4 pixels: 40 with 40 train images" in printed


@pytest.mark.slow
def test_sampling_goes_on_where_it_was_killed(photos, pretrained, tmp_path):
    class Crash(RunCallback):
        def on_progress(self, stage, done, total):
            if (stage, done) == ("samples", 32):
                raise RuntimeError("crashed")

    path, output, kept = pretrained("ar"), tmp_path / "run", tmp_path / "run-samples"

    def open_run(seed):
        settings = Evaluate.Settings(
            model=path, samples=34, features=f"model:{path}", baselines=False, seed=seed
        )
        return Evaluate.open(settings, DataOptions(f"folder:{photos}"), output, overwrite=True)

    with pytest.raises(RuntimeError, match="crashed"):
        open_run(0).run([Crash()])
    assert not output.exists()
    images = np.load(kept / "samples.npy", mmap_mode="r+")
    images[5] = 77
    images.flush()
    expected = igpt_keras.load(path).sample(34).images[:, 0]
    open_run(0).run()
    samples = np.load(output / "samples.npz")["arr_0"]
    assert (samples[5] == 77).all() and not kept.exists()
    others = np.arange(34) != 5
    np.testing.assert_array_equal(samples[others], expected[others])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--samples", 3), "samples must be at least 4, got 3"),
        (("--samples", "no.npz"), "no.npz"),
        (("--samples", 9, "--reference", "valid"), "'valid' is not one of"),
        (("--samples", 9, "--features", "vgg:x"), "feature extractor must be one of inception"),
    ],
)
def test_samples_that_cannot_be_compared(igpt, photos, pretrained, tmp_path, arguments, message):
    status, _, error = igpt(
        *("evaluate", pretrained("ar"), "--data", f"folder:{photos}", *arguments),
        *("--output", tmp_path / "run"),
    )
    assert status == 2
    assert message in error
    assert not (tmp_path / "run").exists()
