import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import igpt_keras
from igpt_keras.cli.pretrain import describe
from igpt_keras.data import read_images
from igpt_keras.data.data_set import open_data
from igpt_keras.pictures.contact_sheets import save_png
from igpt_keras.runs import Pretrain
from igpt_keras.runs.folder import only_writer, read_run
from igpt_keras.runs.result import read_result

SIZES = ["--image-size", "8", "--num-layers", "1", "--hidden-dim", "16", "--num-heads", "1"]


@pytest.fixture(scope="module")
def trained(igpt, tmp_path_factory):
    output = tmp_path_factory.mktemp("pretrain") / "tiny"
    arguments = ["--data", "digits", "--num-colors", 8, *SIZES, "--steps", 24, "--batch-size", 32]
    status, _, errors = igpt(
        "pretrain", *arguments, "--snapshots", 3, "--learning-rate", 0.01, "--output", output
    )
    assert status == 0, errors
    return output


def test_checkpoints_halve_the_steps(trained):
    metrics = read_result(trained).metrics
    assert [saved["step"] for saved in metrics["snapshots"]] == [6, 12, 24]
    assert metrics["history"]["step"] == [6, 12, 18, 24]
    folders = sorted(path.name for path in (trained / "snapshots").iterdir())
    assert folders == ["best", "step-00000006", "step-00000012", "step-00000024"]


def test_the_best_checkpoint_has_the_lowest_loss(trained):
    metrics = read_result(trained).metrics
    best = metrics["best_checkpoint"]
    history = metrics["history"]
    assert best["validation_loss"] == min(history["val_loss"])
    assert best["step"] == history["step"][int(np.argmin(history["val_loss"]))]
    model = igpt_keras.load(trained / best["path"])
    tokens = model.tokenizer.tokenize(open_data("digits").validation.images)
    assert model.per_image(tokens)["nll"].numpy().mean() == pytest.approx(
        best["validation_loss"], rel=1e-5
    )


def test_losses_are_those_of_the_saved_models(trained):
    result = read_result(trained)
    digits = open_data("digits")
    for saved in result.metrics["snapshots"]:
        model = igpt_keras.load(trained / saved["path"])
        tokens = model.tokenizer.tokenize(digits.validation.images)
        logits = np.asarray(model(tokens), np.float64)
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        nll = -np.take_along_axis(log_probabilities, tokens[..., None], axis=-1).mean()
        assert saved["validation_loss"] == pytest.approx(nll, rel=1e-4)
    assert result.metrics["validation_loss"] == pytest.approx(nll, rel=1e-4)
    assert result.model["validation_loss"] == result.metrics["validation_loss"]


def test_the_run_is_read_as_its_model(trained):
    model, last = igpt_keras.load(trained), igpt_keras.load(trained / "snapshots/step-00000024")
    for ours, saved in zip(model.get_weights(), last.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, saved)
    assert model.tokenizer.vocabulary_size == 8
    images = read_images(open_data("digits").validation, 8).images
    errors = model.tokenizer.reconstruction_error(images)
    usual = json.loads((trained / "model" / "training.json").read_text())["tokenizer_rmse"]
    assert usual == pytest.approx(math.sqrt((errors**2).mean()))


def test_learns(trained):
    losses = read_result(trained).metrics["history"]["val_loss"]
    assert losses[-1] < losses[0] < np.log(8)


def test_pictures(trained):
    for name in ("completions.png", "samples.png"):
        picture = np.asarray(Image.open(trained / name))
        assert picture.std() > 0


def test_another_run_from_its_palette(igpt, trained, tmp_path):
    arguments = ["--data", "digits", "--tokenizer", trained, *SIZES, "--steps", 2]
    status, _, errors = igpt(
        "pretrain", *arguments, "--snapshots", 1, "--objective", "bert", "--output", tmp_path / "b"
    )
    assert status == 0, errors
    model = igpt_keras.load(tmp_path / "b")
    assert model.objective == "bert"
    np.testing.assert_array_equal(model.tokenizer.colors, igpt_keras.load(trained).tokenizer.colors)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout", [[], ["--strategy", "mirrored", "--micro-batches", 2, "--remat"]]
)
def test_the_same_seed_gives_the_same_model_however_it_is_laid_out(igpt, trained, tmp_path, layout):
    arguments = ["--data", "digits", "--num-colors", 8, *SIZES, "--steps", 24, "--batch-size", 32]
    arguments += ["--snapshots", 3, "--learning-rate", 0.01, "--output", tmp_path / "again"]
    status, _, errors = igpt("pretrain", *arguments, *layout)
    assert status == 0, errors
    first, again = (read_result(path).metrics for path in (trained, tmp_path / "again"))
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(
            first["history"][name], again["history"][name], rtol=1e-5, err_msg=name
        )


@pytest.mark.slow
def test_precision_is_that_of_the_model(igpt, tmp_path):
    arguments = ["--data", "digits", "--num-colors", 8, *SIZES, "--steps", 2, "--snapshots", 1]
    status, _, errors = igpt(
        "pretrain", *arguments, "--precision", "mixed_bfloat16", "--output", tmp_path / "run"
    )
    assert status == 0, errors
    model = igpt_keras.load(tmp_path / "run")
    assert model.dtype_policy.name == model.backbone.dtype_policy.name == "mixed_bfloat16"
    assert {weight.dtype for weight in model.get_weights()} == {np.dtype("float32")}


@pytest.mark.slow
def test_two_workers_write_one_run(trained, two_workers, tmp_path):
    arguments = ["--data", "digits", "--tokenizer", trained, *SIZES, "--steps", 24]
    arguments += ["--batch-size", 32, "--snapshots", 3, "--learning-rate", 0.01]
    two_workers("pretrain", *arguments, "--output", tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    first, again = (read_result(path).metrics for path in (trained, tmp_path / "run"))
    np.testing.assert_allclose(first["history"]["loss"], again["history"]["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "2", "--warmup-steps", "3"], "warmup_steps must lie in 0…2"),
        (["--steps", "2", "--epochs", "1"], "give either epochs or steps"),
        (["--steps", "16", "--snapshots", "0"], "0 is not in the range x>=1"),
        (["--steps", "16", "--num-heads", "3"], "hidden_dim must be a multiple of num_heads"),
        (
            ["--attention", "strided", "--stride", "7"],
            "stride must divide the number of tokens, 64",
        ),
        (["--steps", "2", "--tokenizer", "rgb"], "got num_colors=8 and tokenizer=rgb"),
        (["--steps", "16", "--image-size", "0"], "0 is not in the range x>=1"),
        (["--steps", "16", "--objective", "bert", "--mask-probability", "1"], "range 0<x<1"),
        (["--steps", "16", "--learning-rate", "-1"], "x>0"),
    ],
)
def test_unusable_settings(igpt, tmp_path, arguments, message):
    output = tmp_path / "run"
    data = ["--data", "digits", "--num-colors", "8", *SIZES]
    status, _, errors = igpt("pretrain", *data, *arguments, "--output", output)
    assert (status, errors.count("\n")) == (2, 1)
    assert message in errors
    assert not output.exists()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {},
            "image_gpt_nano (4 layers of width 128, 2 heads), 16×16 pixels, 256 colors, 20 epochs, "
            "batches of 32, learning rate 0.003",
        ),
        (
            {"preset": "image_gpt_small", "steps": 1000, "tokenizer": "rgb", "image_size": 48},
            "image_gpt_small (24 layers of width 512, 8 heads), 48×48 pixels, 48×144 tokens of "
            "256 values, tokenizer rgb, 1,000 steps, batches of 128, learning rate 0.003",
        ),
        (
            {"attention": "strided", "steps": 10},
            "image_gpt_nano (4 layers of width 128, 2 heads), strided attention, 16×16 pixels, "
            "256 colors, 10 steps, batches of 32, learning rate 0.003",
        ),
        (
            {"num_layers": 1, "hidden_dim": 3072, "num_heads": 1, "epochs": 0.5},
            "model (1 layer of width 3072, 1 head), 16×16 pixels, 256 colors, 0.5 epochs, "
            "batches of 32, learning rate 0.0003",
        ),
    ],
)
def test_the_first_line_says_what_is_trained(settings, line):
    completed = Pretrain.Settings(**settings).completed()
    assert describe(completed, completed.config(completed.read_tokenizer())) == line


@pytest.mark.slow
def test_photographs_are_learned_by_defaults(igpt, tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(48):
        photo = load_sample_images().images[index % 2]
        top, left = (int(generator.integers(side - 96)) for side in photo.shape[:2])
        crop = Image.fromarray(photo[top : top + 96, left : left + 96])
        save_png(crop, tmp_path / "photos" / f"{index}.png")
    arguments = ["--data", f"folder:{tmp_path / 'photos'}", "--output", tmp_path / "run"]
    status, printed, errors = igpt("pretrain", *arguments)
    assert status == 0, errors
    first, steps, *_ = printed.splitlines()
    assert first.startswith("image_gpt_nano (4 layers") and "20 epochs" in first
    # 43 images are 1.3 batches.
    assert steps.startswith("40 steps of 32 images")
    losses = read_result(tmp_path / "run").metrics["history"]["val_loss"]
    assert losses[-1] < np.log(256) - 2
    assert losses[-1] < min(losses) + 0.05


def test_a_rate_that_is_too_high_ends_with_status_3(igpt, tmp_path):
    output = tmp_path / "run"
    status, _, errors = igpt(
        *("pretrain", "--data", "digits", "--num-colors", 8, *SIZES, "--steps", 64),
        *("--batch-size", 32, "--learning-rate", 1e30, "--output", output),
    )
    assert status == 3
    assert "training diverged at step" in errors
    assert not (output / "result.json").exists()
    assert read_run(output, "pretrain")["options"]["learning_rate"] == 1e30


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--batch-size", 16], 2, "leave out --batch-size"),
        (["--progress", "quiet"], 0, "is finished"),
    ],
)
def test_resuming_a_finished_run(igpt, trained, arguments, status, message):
    got, printed, errors = igpt("pretrain", "--resume", trained, *arguments)
    assert got == status
    assert message in printed + errors


def test_resuming_what_is_no_run(igpt, tmp_path):
    status, _, errors = igpt("pretrain", "--resume", tmp_path)
    assert (status, errors.count("\n")) == (2, 1)
    assert "is not the folder of a run: it holds no run.json" in errors


def test_resuming_with_other_images_or_where_the_images_are_now(igpt, photos, tmp_path):
    output = tmp_path / "run"
    arguments = ["--data", f"folder:{photos}", "--num-colors", 8, *SIZES, "--batch-size", 4]
    status, _, errors = igpt(
        "pretrain", *arguments, "--steps", 2, "--snapshots", 1, "--output", output
    )
    assert status == 0, errors
    (output / "result.json").unlink()
    image = photos / "train" / "light" / "3.png"
    image.rename(tmp_path / "3.png")
    status, _, errors = igpt("pretrain", "--resume", output)
    assert status == 2
    assert f"images folder:{photos} changed since {output} began" in errors
    (tmp_path / "3.png").rename(image)
    moved = shutil.copytree(photos, tmp_path / "moved", copy_function=shutil.copy)
    shutil.rmtree(photos)
    status, _, errors = igpt("pretrain", "--resume", output)
    assert status == 2 and "photos is not a folder" in errors
    (moved / "train" / "notes.txt").write_text("")
    status, _, errors = igpt("pretrain", "--resume", output, "--data", f"folder:{moved}")
    message = f"igpt: warning: folder:{moved}: left out 1 .txt file (train/notes.txt)\n"
    assert (status, errors.count(message)) == (0, 1), errors
    assert (output / "result.json").exists()


def test_one_process_at_a_time(igpt, trained, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    (copy / "result.json").unlink()
    with only_writer(copy):
        status, _, errors = igpt("pretrain", "--resume", copy)
    assert status == 2
    assert f"another process is training in {copy}" in errors


def test_json_progress_is_json(igpt, tmp_path):
    arguments = ["--data", "digits", "--num-colors", 8, *SIZES, "--steps", 4, "--snapshots", 1]
    status, printed, errors = igpt(
        "pretrain", *arguments, "--log-every", 2, "--progress", "json", "--output", tmp_path / "r"
    )
    assert status == 0
    lines = printed.splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 4]
    assert "val_loss" in lines[-1]
    assert "model (1 layer of width 16, 1 head), 8×8 pixels, 8 colors, 4 steps, " in errors
    assert "Wrote" in errors


def test_another_folder_is_not_replaced(igpt, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    arguments = ["--data", "digits", *SIZES, "--steps", 16, "--output", tmp_path, "--overwrite"]
    status, _, errors = igpt("pretrain", *arguments)
    assert status == 2
    assert "folder of other things" in errors
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_result_is_json(trained):
    content = json.loads((trained / "result.json").read_text())
    assert content["kind"] == "pretrain"
    assert content["data"]["train"] == 1257


@pytest.mark.slow
def test_options_of_sparse_attention_reach_the_model_and_survive_a_resumed_run(igpt, tmp_path):
    run = tmp_path / "run"
    options = ["--attention", "fixed", "--stride", 16, "--summary", 3, "--axial-positions"]
    options += ["--attention-layers", "merged,local", "--initializer", "sparse_transformer"]
    data = ["--data", "digits", "--num-colors", 8, *SIZES, "--steps", 8, "--snapshots", 1]
    status, output, errors = igpt("pretrain", *data, *options, "--output", run)
    assert status == 0, errors
    assert "fixed attention, 8×8 pixels" in output
    expected = {"attention": "fixed", "stride": 16, "summary": 3, "axial_positions": True}
    config = igpt_keras.load(run).config.to_dict()
    assert config == {
        **config,
        **expected,
        "attention_layers": ("merged", "local"),
        "initializer": "sparse_transformer",
    }
    # As if it had been interrupted before its end.
    (run / "result.json").unlink()
    status, _, errors = igpt("pretrain", "--resume", run)
    assert status == 0, errors
