import json
import math
import shutil
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.metrics import confusion_matrix

import igpt_keras
from igpt_keras.models.masking import draw_mask
from igpt_keras.runs import training as training_module
from igpt_keras.runs.finetune import Settings, load_start
from igpt_keras.runs.folder import only_writer
from igpt_keras.runs.result import read_result
from igpt_keras.training.callbacks.history_logger import read_history


def test_split(photos, palette):
    """Tokens and labels of the test images, read without `igpt_keras.data`."""
    files = sorted(photos.glob("test/*/*.png"))
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    labels = np.array([file.parent.name == "light" for file in files], int)
    return palette.tokenize(images), labels


test_split.__test__ = False


def test_finetune_keeps_the_best_epoch_and_measures_it(igpt, photos, pretrained, tmp_path):
    run = tmp_path / "run"
    model = pretrained("ar")
    status, printed, _ = igpt(
        *("finetune", model, "--data", f"folder:{photos}", "--output", run, "--batch-size", 8),
        *("--epochs", 4, "--patience", 2, "--learning-rate", 0.01),
    )
    assert status == 0
    result = read_result(run)
    metrics, settings = result.metrics, result.settings
    history = metrics["history"]["val_accuracy"]
    assert metrics["best_epoch"] == 1 + int(np.argmax(history))
    assert len(history) <= min(4, metrics["best_epoch"] + 2)
    assert metrics["validation_accuracy"] == pytest.approx(max(history))
    assert (result.kind, result.model["name"], result.model["step"]) == ("finetune", "before", 7)
    assert result.data["train"] == 36
    assert (settings["start"], settings["layer"], settings["generative_weight"]) == (
        "pretrained",
        2,
        1.0,
    )

    classifier = igpt_keras.load(run / "model")
    assert classifier.class_names == ["dark", "light"]
    tokens, labels = test_split(photos, classifier.tokenizer)
    logits = classifier.predict(tokens, verbose=0).astype(float)
    predicted = logits.argmax(axis=1)
    assert metrics["test_accuracy"] == np.mean(predicted == labels)
    matrix = confusion_matrix(labels, predicted, labels=[0, 1])
    assert metrics["test_confusion"]["matrix"] == matrix.tolist()
    assert (run / "confusions.png").is_file() == (metrics["test_accuracy"] < 1)
    classifier.compile()
    nll = classifier.evaluate(tokens, labels, verbose=0, return_dict=True)["bits_per_pixel"]
    assert metrics["test_generative_loss"] == pytest.approx(nll * math.log(2), abs=1e-5)
    assert (metrics["single_mask_accuracy"], metrics["votes"]) == (None, None)

    training = json.loads((run / "model" / "training.json").read_text())
    assert (training["name"], training["data"]) == ("run", f"folder:{photos}")
    assert training["step"] == 5 * metrics["best_epoch"]
    assert training["validation_loss"] > 0
    assert f"{metrics['test_accuracy']:.2%}" in printed
    assert str(run / "model") in printed


def test_finetune_bert_from_a_middle_layer_on_all_training_images(
    igpt, photos, pretrained, tmp_path
):
    run = tmp_path / "run"
    status, printed, _ = igpt(
        *("finetune", pretrained("bert"), "--data", f"folder:{photos}", "--output", run),
        *("--train-on-validation", "--generative-weight", 0, "--layer", 1, "--batch-size", 20),
        *("--epochs", 2, "--patience", 1, "--learning-rate", 0.01, "--seed", 3),
    )
    assert status == 0
    assert "exactly 2 epochs" in printed
    result = read_result(run)
    metrics = result.metrics
    assert result.data["train"] == 40
    assert metrics["best_epoch"] == len(metrics["history"]["loss"]) == 2
    assert metrics["validation_accuracy"] is metrics["test_generative_loss"] is None

    classifier = igpt_keras.load(run / "model")
    assert (classifier.layer, classifier.generative_weight) == (1, 0)
    tokens, labels = test_split(photos, classifier.tokenizer)
    votes = []
    for vote in range(5):
        masked = draw_mask(tokens.shape, 0.15, 3, vote)
        logits = classifier.predict({"tokens": tokens, "masked": masked}, verbose=0)
        votes.append(logits.argmax(axis=1))
    # Of two classes and five votes, one always has more.
    assert metrics["test_accuracy"] == np.mean((np.sum(votes, axis=0) > 2) == labels)
    assert metrics["single_mask_accuracy"] == np.mean(votes[0] == labels)
    assert metrics["votes"] == 5


@pytest.mark.slow
def test_finetune_from_scratch_takes_no_weights_of_the_model(igpt, photos, pretrained, tmp_path):
    model, run = pretrained("ar"), tmp_path / "run"
    # So low a rate leaves the weights where they started.
    status, _, _ = igpt(
        *("finetune", model, "--data", f"folder:{photos}", "--output", run, "--from-scratch"),
        *("--epochs", 1, "--learning-rate", 1e-20, "--labels-per-class", 3, "--seed", 4),
    )
    assert status == 0
    result = read_result(run)
    assert result.settings["start"] == "scratch"
    assert (result.model["step"], result.model["data"]) == (None, None)
    assert result.data["train"] == 6

    def embedding(seed, from_scratch=True):
        settings = Settings(model=model, from_scratch=from_scratch, seed=seed)
        return load_start(settings).backbone.get_weights()[0]

    trained = igpt_keras.load(run / "model").backbone.get_weights()[0]
    np.testing.assert_array_equal(trained, embedding(4))
    assert (trained != embedding(5)).any()
    started = igpt_keras.load(model).backbone.get_weights()[0]
    np.testing.assert_array_equal(embedding(4, from_scratch=False), started)
    # New token embeddings are N(0, 0.02); those of the model here have 0.3.
    assert trained.std() < 0.03 < started.std()


@pytest.mark.slow
def test_adapters_are_stored_apart_and_merged_in_the_classifier(igpt, photos, pretrained, tmp_path):
    model, run = pretrained("ar"), tmp_path / "run"
    status, printed, errors = igpt(
        *("finetune", model, "--data", f"folder:{photos}", "--output", run, "--batch-size", 8),
        *("--epochs", 3, "--learning-rate", 0.03, "--lora-rank", 2, "--freeze-blocks", 1),
    )
    assert status == 0, errors
    result = read_result(run)
    adapters = 2 * 16 * 16
    counts = (result.metrics["trainable_parameters"], result.metrics["total_parameters"])
    start = igpt_keras.load(model)
    assert counts == (adapters + 2 * 16, start.count_params() + adapters + 2 * 16)
    assert f"{counts[0]:,} of {counts[1]:,}" in printed
    assert (result.settings["lora_rank"], result.settings["freeze_blocks"]) == (2, 1)

    classifier = igpt_keras.load(run / "model")
    assert classifier.lora_rank is None
    tokens, labels = test_split(photos, classifier.tokenizer)
    logits = classifier.predict(tokens, verbose=0)
    assert result.metrics["test_accuracy"] == np.mean(logits.argmax(axis=1) == labels)
    again = igpt_keras.ImageGPTClassifier.from_preset(model, 2)
    again.load_adapters(run / "adapters")
    np.testing.assert_allclose(again.predict(tokens, verbose=0), logits, atol=1e-5)
    assert again.class_names == ["dark", "light"]
    about = json.loads((run / "adapters" / "adapters.json").read_text())
    assert about["base"]["path"] == str(model)
    kernels = {v.path.partition("/")[2]: v.numpy() for v in classifier.backbone.variables}
    differ = {
        v.path.partition("/")[2]
        for v in start.backbone.variables
        if (kernels[v.path.partition("/")[2]] != v.numpy()).any()
    }
    projections = ("attention/qkv", "attention/output_proj", "mlp/up_proj", "mlp/down_proj")
    assert differ == {f"backbone/block_1/{name}/kernel" for name in projections}

    # No variable of an export is an adapter's.
    served = tmp_path / "served"
    assert igpt("export", run / "model", "--precision", "bfloat16", "--output", served)[0] == 0
    (index,) = served.glob("**/variables.index")
    types = tf.train.load_checkpoint(str(index.with_suffix(""))).get_variable_to_dtype_map()
    assert tf.bfloat16 in types.values() and not any("lora" in name for name in types)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": ("--lora-rank", 0)}, "--lora-rank"),
        ({"options": ("--freeze-blocks", 3)}, "freeze_blocks must be at most the 2 blocks, got 3"),
        ({"options": ("--lora-rank", 4, "--from-scratch")}, "from_scratch=True has none"),
        (
            {"options": ("--lora-rank", 4, "--freeze-blocks", 2)},
            "of the 2 blocks that are used, freeze_blocks=2 leaves none",
        ),
        (
            {"options": ("--lora-rank", 4, "--generative-weight", 0, "--layer", 0)},
            "of the 0 blocks that are used",
        ),
        ({"palette": False}, "has no tokenizer"),
        ({"model_class": igpt_keras.ImageGPTClassifier, "num_classes": 2}, "is a classifier"),
        ({"options": ("--layer", 3)}, "layer must lie in 0…2, got 3"),
        (
            {"options": ("--labels-per-class", 3, "--augmentation", "cifar")},
            "got augmentation=cifar",
        ),
        ({"data": "test"}, "has no labeled test split"),
        ({"data": "test/dark"}, "has no labels"),
    ],
)
def test_what_cannot_be_finetuned_is_named_and_nothing_written(
    igpt, photos, pretrained, tmp_path, change, message
):
    options, data = change.pop("options", ()), change.pop("data", "")
    model = pretrained("ar", **change)
    status, _, error = igpt(
        *("finetune", model, "--data", f"folder:{photos / data}", "--output", tmp_path / "run"),
        *options,
    )
    assert status == 2
    assert message in error
    assert not (tmp_path / "run").exists()


def test_an_earlier_run_is_kept_unless_told_otherwise(igpt, photos, pretrained, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "result.json").write_text("{}")
    status, _, error = igpt(
        "finetune", pretrained("ar"), "--data", f"folder:{photos}", "--output", run
    )
    assert status == 2
    assert "run exists already" in error
    assert (run / "result.json").read_text() == "{}"


@pytest.fixture(scope="module")
def unfinished(igpt, write_photos, write_pretrained, tmp_path_factory):
    """A run of two epochs whose result could not be written, and that of the same run."""
    folder = tmp_path_factory.mktemp("finetune")
    arguments = ["finetune", write_pretrained(folder, "ar"), "--epochs", 2]
    arguments += ["--data", f"folder:{write_photos(folder / 'photos')}"]
    arguments += ["--batch-size", 16, "--log-every", 2, "--learning-rate", 0.01, "--output"]
    status, _, errors = igpt(*arguments, folder / "whole")
    assert status == 0, errors

    def fail(*arguments):
        raise OSError("the disk is full")

    with mock.patch.object(training_module, "write_result", fail):
        status, _, errors = igpt(*arguments, folder / "run")
    assert (status, errors) == (2, "igpt: error: the disk is full\n")
    return folder / "run", read_result(folder / "whole")


@pytest.fixture
def tuned(unfinished, tmp_path):
    run, result = unfinished
    return shutil.copytree(run, tmp_path / "run"), result


def test_a_run_has_a_history_of_its_steps(tuned):
    run, result = tuned
    # 36 images are 3 steps of 16: a record every 2 steps, and one at the end of both epochs.
    records = read_history(run)
    assert [record["step"] for record in records] == [2, 3, 4, 6, 6]
    accuracies = [record["val_accuracy"] for record in records if "val_accuracy" in record]
    assert accuracies == result.metrics["history"]["val_accuracy"]
    first = (2 * records[0]["loss"] + records[1]["loss"]) / 3
    assert first == pytest.approx(result.metrics["history"]["loss"][0], rel=1e-5)


def test_resuming_writes_what_is_missing(igpt, tuned):
    run, expected = tuned
    history = read_history(run)
    states = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert states == ["step-00000003", "step-00000006"]
    status, printed, _ = igpt("finetune", "--resume", run, "--progress", "quiet")
    assert status == 0
    result = read_result(run)
    assert result.metrics == expected.metrics
    assert result.command == expected.command.replace("whole", "run")
    # Nothing was trained again.
    assert read_history(run) == history
    assert not (run / "checkpoints").exists()
    assert f"{result.metrics['test_accuracy']:.2%}" in printed
    status, printed, _ = igpt("finetune", "--resume", run)
    assert (status, printed) == (0, f"{run} is finished: nothing is left to do\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetune", "another", "--seed", 1], "leave out MODEL, --seed"),
        (["pretrain"], "is a run of igpt finetune, not of igpt pretrain"),
    ],
)
def test_resuming_with_other_options(igpt, tuned, arguments, message):
    run, _ = tuned
    status, _, errors = igpt(*arguments, "--resume", run)
    assert status == 2
    assert message in errors


def test_resuming_after_the_model_or_the_images_changed(igpt, unfinished, write_pretrained):
    run, _ = unfinished
    model = write_pretrained(run.parent, "ar", overwrite=True, seed=6)
    status, _, errors = igpt("finetune", "--resume", run)
    assert (status, errors.count("\n")) == (2, 1)
    assert f"model {model} changed since {run} began" in errors
    write_pretrained(run.parent, "ar", overwrite=True)
    photos = run.parent / "photos"
    image = photos / "test" / "light" / "3.png"
    image.rename(run.parent / "3.png")
    status, _, errors = igpt("finetune", "--resume", run)
    (run.parent / "3.png").rename(image)
    assert f"images folder:{photos} changed since {run} began" in errors
    assert not (run / "result.json").exists()


def test_one_process_at_a_time(igpt, tuned):
    run, _ = tuned
    with only_writer(run):
        status, _, errors = igpt("finetune", "--resume", run)
    assert (status, errors) == (2, f"igpt: error: another process is training in {run}\n")


@pytest.mark.slow
def test_few_images_are_one_batch(igpt, photos, pretrained, tmp_path):
    arguments = ["finetune", pretrained("ar"), "--data", f"folder:{photos}", "--epochs", 2]
    arguments += ["--labels-per-class", 5, "--output"]
    status, _, errors = igpt(*arguments, tmp_path / "run")
    assert status == 0, errors
    assert read_history(tmp_path / "run")[-1]["step"] == 2
    # More would be the same images again.
    igpt(*arguments, tmp_path / "ten", "--batch-size", 10)
    runs = [read_result(tmp_path / name).metrics["history"] for name in ("run", "ten")]
    assert runs[0] == runs[1]


@pytest.mark.slow
@pytest.mark.parametrize("what", [[], ["--freeze-blocks", 1], ["--lora-rank", 2]])
def test_two_replicas_learn_what_one_learns(igpt, photos, pretrained, tmp_path, what):
    arguments = ["finetune", pretrained("bert"), *what, "--data", f"folder:{photos}", "--epochs", 2]
    arguments += ["--labels-per-class", 5, "--learning-rate", 0.01, "--batch-size", 4]
    histories = {}
    for strategy in ("none", "mirrored"):
        output = tmp_path / strategy
        assert igpt(*arguments, "--strategy", strategy, "--output", output)[0] == 0
        histories[strategy] = read_result(output).metrics["history"]
    for name, values in histories["none"].items():
        np.testing.assert_allclose(histories["mirrored"][name], values, rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_two_workers_write_one_run(igpt, two_workers, photos, pretrained, tmp_path):
    model = pretrained("bert")
    arguments = ["finetune", model, "--data", f"folder:{photos}", "--epochs", 2]
    arguments += ["--learning-rate", 0.01, "--batch-size", 4, "--output"]
    assert igpt(*arguments, tmp_path / "alone", "--strategy", "none")[0] == 0
    two_workers(*arguments, tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"photos", model.name, "alone", "run"}
    first, again = (read_result(tmp_path / name).metrics for name in ("alone", "run"))
    np.testing.assert_allclose(first["history"]["loss"], again["history"]["loss"], rtol=1e-4)


def test_few_images_that_replicas_cannot_share(igpt, photos, pretrained, tmp_path):
    model = pretrained("ar")
    (photos / "train" / "dusk").mkdir()
    for file in (photos / "train" / "dark").iterdir():
        (photos / "train" / "dusk" / file.name).write_bytes(file.read_bytes())
    status, _, errors = igpt(
        *("finetune", model, "--data", f"folder:{photos}", "--strategy", "mirrored"),
        *("--labels-per-class", 3, "--output", tmp_path / "run"),
    )
    assert status == 2
    assert "batch_size=128 is more than the 9 images of labels_per_class=3" in errors
    assert not (tmp_path / "run").exists()
