"""A class-conditional model on the command line: trained, sampled, evaluated, fine-tuned."""

import keras
import numpy as np
import pytest

import igpt_keras
from igpt_keras.convert.huggingface.writing import save_huggingface
from igpt_keras.data import read_images
from igpt_keras.data.data_set import open_data
from igpt_keras.data.image_decoding import read_image
from igpt_keras.errors import InputError
from igpt_keras.runs import Pretrain
from igpt_keras.runs.result import read_result

TINY = ["--image-size", 4, "--num-layers", 1, "--hidden-dim", 16, "--num-heads", 1]
TINY += ["--num-colors", 4, "--batch-size", 20]


@pytest.fixture(scope="module")
def folder(write_photos, tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("conditional") / "photos")


@pytest.fixture(scope="module")
def trained(igpt, folder):
    output = folder.parent / "run"
    status, printed, errors = igpt(
        *("pretrain", "--data", f"folder:{folder}", "--output", output, *TINY, "--steps", 4),
        *("--class-conditional", "--label-dropout", 0.3, "--snapshots", 1),
    )
    assert status == 0, errors
    assert "4×4 pixels, 4 colors, 2 classes" in printed
    return output


def test_a_run_keeps_the_classes_and_measures_given_them(trained, folder):
    model = igpt_keras.load(trained)
    assert (model.config.num_classes, model.label_dropout) == (2, 0.3)
    assert model.class_names == ["dark", "light"]
    result = read_result(trained)
    settings = result.settings
    assert (settings["class_conditional"], settings["label_dropout"]) == (True, 0.3)
    test = read_images(open_data(f"folder:{folder}").test, 4)
    loss = -model.score(test.images, test.labels).mean() / 16
    assert result.metrics["test_loss"] == pytest.approx(loss, rel=1e-4)
    assert (trained / "samples.png").is_file()


def test_samples_take_the_labels_in_turn(igpt, trained, tmp_path):
    output = tmp_path / "samples"
    status, printed, errors = igpt(
        *("sample", "--model", trained, "--num-samples", 3, "--output", output),
        *("--label", "light", "--label", 0, "--guidance-scale", 2),
    )
    assert status == 0, errors
    expected = igpt_keras.load(trained).sample(3, labels=[1, 0, 1], guidance_scale=2.0)
    np.testing.assert_array_equal(np.load(output / "samples.npz")["arr_0"], expected.images[:, 0])
    result = read_result(output)
    assert [record["label"] for record in result.metrics["completions"]] == [
        *("light", "dark", "light")
    ]
    assert result.settings["guidance_scale"] == 2
    assert "000.png  light  sampled tokens" in printed


@pytest.mark.slow
def test_completions_take_a_label(igpt, trained, folder, tmp_path):
    output, image = tmp_path / "completed", folder / "test" / "dark" / "0.png"
    arguments = ("--model", trained, "--num-completions", 2, "--label", "light")
    assert igpt("complete", image, *arguments, "--output", output)[0] == 0
    original = read_image(image, 4)[None]
    model = igpt_keras.load(trained)
    expected = model.generate(original, keep_rows=2, num_completions=2, labels=1)
    records = read_result(output).metrics["completions"]
    likelihoods = [record["log_likelihood"] for record in records]
    np.testing.assert_allclose(likelihoods, expected.log_likelihood[0], rtol=1e-5)
    assert [record["label"] for record in records] == ["light", "light"]


def test_evaluate_measures_the_generative_classifier(igpt, trained, folder, tmp_path):
    output = tmp_path / "evaluated"
    arguments = ("--data", f"folder:{folder}", "--output", output, "--no-baselines")
    status, printed, errors = igpt("evaluate", trained, *arguments)
    assert status == 0, errors
    metrics, model = read_result(output).metrics, igpt_keras.load(trained)
    test = read_images(open_data(f"folder:{folder}").test, 4)
    scores = model.class_log_likelihood(test.images)
    accuracy = (scores.argmax(axis=1) == test.labels).mean()
    assert metrics["test_accuracy"] == pytest.approx(accuracy)
    given = scores[np.arange(12), test.labels].mean() / 16
    assert metrics["test_loss"] == pytest.approx(-given, rel=1e-4)
    without = -model.score(test.images).mean() / 16
    assert metrics["test_unconditional_loss"] == pytest.approx(without, rel=1e-4)
    posterior = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    loss = -posterior[np.arange(12), test.labels].mean()
    assert metrics["test_classification_loss"] == pytest.approx(loss, abs=1e-3)
    assert np.sum(metrics["test_confusion"]["matrix"]) == 12
    assert f"{accuracy:.2%}" in printed


@pytest.mark.slow
def test_a_classifier_starts_from_the_model_without_a_class(igpt, trained, folder, tmp_path):
    arguments = ("--data", f"folder:{folder}", "--batch-size", 20)
    finetuned, probed = tmp_path / "finetuned", tmp_path / "probed"
    settings = ("--epochs", 1, "--output", finetuned)
    status, _, errors = igpt("finetune", trained, *arguments, *settings)
    assert status == 0, errors
    assert igpt_keras.load(finetuned).config.num_classes is None
    status, _, errors = igpt("probe", trained, *arguments, "--output", probed)
    assert status == 0, errors


class Crash(keras.callbacks.Callback):
    """Fails after the third batch."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations.numpy() == 3:
            raise RuntimeError("crashed")


@pytest.mark.slow
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(folder, tmp_path):
    settings = Pretrain.Settings(
        **{"image_size": 4, "num_layers": 1, "hidden_dim": 16, "num_heads": 1, "num_colors": 4},
        **{"batch_size": 20, "steps": 4, "snapshots": 1, "checkpoint_every": 2},
        class_conditional=True,
        label_dropout=0.5,
    )
    data, whole, resumed = f"folder:{folder}", tmp_path / "whole", tmp_path / "resumed"
    Pretrain.open(settings, data, whole).run()
    with pytest.raises(RuntimeError, match="crashed"):
        Pretrain.open(settings, data, resumed).run([Crash()])
    Pretrain.open(settings, data, resumed, resume=True).run()
    weights = (igpt_keras.load(path).get_weights() for path in (whole, resumed))
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--label", "cat"), "labels must be names of classes, dark, light, or numbers in 0…1; "),
        (("--label", 2), "got 2"),
        (("--guidance-scale", 2), "guidance_scale=2.0 needs labels"),
    ],
)
def test_unknown_classes_are_one_line(igpt, trained, tmp_path, arguments, message):
    status, _, errors = igpt("sample", "--model", trained, *arguments, "--output", tmp_path / "out")
    assert status == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_conditional_is_one_line(igpt, pretrained, folder, tmp_path):
    images = np.zeros((30, 4, 4, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    output = tmp_path / "out"
    settings = ("--output", output, *TINY, "--class-conditional")
    for arguments, message in (
        (("--data", f"array:{tmp_path / 'images.npy'}"), "has no labels"),
        (("--data", f"folder:{folder}", "--objective", "bert"), 'needs objective="ar"'),
    ):
        status, _, errors = igpt("pretrain", *arguments, *settings)
        assert status == 2
        assert message in errors
        assert errors.count("\n") == 1
        assert not output.exists()
    arguments = ("--model", pretrained("ar"), "--label", 0, "--output", output)
    _, _, errors = igpt("sample", *arguments)
    assert "labels needs a model that was pre-trained with class_conditional" in errors


def test_transformers_have_no_such_model(trained, tmp_path):
    with pytest.raises(InputError, match="has one start vector, .* num_classes=2 classes"):
        save_huggingface(igpt_keras.load(trained), tmp_path / "hf")
