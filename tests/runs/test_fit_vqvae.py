"""Fitting a VQ-VAE: the run, its folder, and what it measures."""

import dataclasses
import shutil

import numpy as np
import pytest

from igpt_keras import VQVAE, InputError
from igpt_keras.data.data_set import open_data
from igpt_keras.data.tokenization import read_images
from igpt_keras.runs import DataOptions, FitVQVAE, Pretrain, read_result
from igpt_keras.runs.tokenizers import read_tokenizer
from igpt_keras.training.callbacks.history_logger import read_history

SETTINGS = FitVQVAE.Settings(
    image_size=8,
    codebook_size=16,
    embedding_dim=4,
    hidden_dim=8,
    residual_dim=4,
    num_residual_layers=1,
    steps=20,
    learning_rate=0.01,
    log_every=5,
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "vqvae"
    run = FitVQVAE.open(SETTINGS, "digits", output, command="mine")
    assert (output / "run.json").exists() and not (output / "tokenizer.json").exists()
    return output, run.run()


def test_the_folder_is_that_of_a_run_and_of_its_tokenizer(fitted):
    output, result = fitted
    assert result == read_result(output)
    assert (result.kind, result.command) == ("tokenizer fit vqvae", "mine")
    assert result.data["train"] == 1257
    tokenizer = read_tokenizer(str(output))
    assert isinstance(tokenizer, VQVAE)
    assert (tokenizer.image_size, tokenizer.grid, tokenizer.vocabulary_size) == (8, (4, 4), 16)
    assert result.model["parameters"] == tokenizer.count_params()
    assert [record["step"] for record in read_history(output) if "val_loss" in record] == (
        result.metrics["history"]["step"]
    )
    assert (output / "reconstructions.png").exists()
    assert not (output / "checkpoints").exists()
    again = FitVQVAE.open(SETTINGS, "nowhere", output, resume=True)
    assert again.finished and again.run() == result


def test_it_is_measured_on_held_out_images(fitted):
    output, result = fitted
    metrics, tokenizer = result.metrics, read_tokenizer(str(output))
    images = read_images(open_data("digits").validation, 8).images
    assert metrics["held_out_images"] == len(images)
    tokens = tokenizer.tokenize(images)
    differences = images - tokenizer.detokenize(tokens).astype(float)
    assert metrics["rmse"] == pytest.approx(np.sqrt(np.mean(differences**2)))
    assert metrics["psnr"] == pytest.approx(10 * np.log10(255**2 / metrics["rmse"] ** 2))
    values, counts = np.unique(tokens, return_counts=True)
    assert metrics["used_share"] == len(values) / 16
    shares = counts / counts.sum()
    assert metrics["perplexity"] == pytest.approx(np.prod(shares**-shares))
    # It learned something: a constant image has the standard deviation as its error.
    assert metrics["rmse"] < images.std()
    history = metrics["history"]
    assert history["step"] == [2, 5, 7, 10, 12, 15, 17, 20]
    assert history["val_loss"][-1] == metrics["validation_loss"] < history["val_loss"][0]
    assert {len(values) for values in history.values()} == {8}


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"image_size": 9}, "digits", "image_size must be a multiple of 2 .*, got 9"),
        ({"num_downsampling": 4}, "digits", "image_size must be a multiple of 16 .*, got 8"),
        (
            {"codebook_size": 30_000},
            "digits",
            "codebook_size must be at most 20,112, .* of 1,257 training images, got 30,000",
        ),
        ({}, "folder:nowhere", "nowhere"),
        ({}, DataOptions("digits", augmentation="none", cache="tokens"), "cache"),
        ({"steps": None, "epochs": 1e-9}, "digits", "epochs=1e-09 is less than one step"),
    ],
)
def test_mistakes_leave_no_folder(changes, data, message, tmp_path):
    settings = dataclasses.replace(SETTINGS, **changes)
    with pytest.raises((InputError, OSError), match=message):
        FitVQVAE.open(settings, data, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_run_that_has_not_finished_is_no_tokenizer_yet(tmp_path):
    FitVQVAE.open(SETTINGS, "digits", tmp_path / "run")
    with pytest.raises(InputError, match="run is a run that has not finished: it has no token"):
        read_tokenizer(str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("strategy", "given"), [("auto", "several hosts in TF_CONFIG"), ("multi-worker", "multi-work")]
)
def test_several_hosts_are_refused(strategy, given, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}}')
    settings = dataclasses.replace(SETTINGS, strategy=strategy)
    with pytest.raises(InputError, match=f"on one host, got {given}"):
        FitVQVAE.open(settings, "digits", tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_steps_and_epochs_exclude_each_other():
    with pytest.raises(InputError, match="either epochs or steps, got epochs=1 and steps=2"):
        FitVQVAE.Settings(epochs=1, steps=2)


def test_what_was_there_stays(fitted, tmp_path):
    shutil.copytree(fitted[0], tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    with pytest.raises(FileExistsError, match="run exists already"):
        FitVQVAE.open(SETTINGS, "digits", tmp_path / "run")
    with pytest.raises(InputError, match="is a run of igpt tokenizer fit vqvae, not of igpt pret"):
        (tmp_path / "run" / "result.json").unlink()
        Pretrain.open(Pretrain.Settings(image_size=8), "digits", tmp_path / "run", resume=True)
    del before["result.json"]
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        FitVQVAE.open(SETTINGS, "digits", tmp_path / "mine", overwrite=True)


@pytest.mark.parametrize(
    ("image_size", "halvings"),
    [(8, 1), (32, 1), (48, 1), (96, 1), (98, 2), (192, 2), (193, 3), (384, 3)],
)
def test_the_grid_is_at_most_48_by_default(image_size, halvings):
    settings = FitVQVAE.Settings(image_size=image_size)
    assert settings.completed().num_downsampling == halvings
    given = FitVQVAE.Settings(image_size=image_size, num_downsampling=5, epochs=2)
    assert given.completed() == given


@pytest.mark.slow
def test_replicas_share_the_batches(tmp_path):
    """Two replicas draw other codes at the start, and end about as well as one."""
    errors = {}
    for strategy in ("none", "mirrored"):
        settings = dataclasses.replace(SETTINGS, steps=200, strategy=strategy)
        run = FitVQVAE.open(settings, "digits", tmp_path / strategy)
        errors[strategy] = run.run().metrics["rmse"]
        assert read_tokenizer(str(tmp_path / strategy)).vocabulary_size == 16
    assert errors["mirrored"] == pytest.approx(errors["none"], rel=0.2)
