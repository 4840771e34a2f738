"""Every verb by the same protocol, from Python."""

import dataclasses
import inspect
import json
import math
import shutil
from fractions import Fraction

import numpy as np
import pytest

import igpt_keras
from igpt_keras import ImageGPTConfig, InputError, paper, runs
from igpt_keras.checksums import write_checksums
from igpt_keras.data.data_set import open_data
from igpt_keras.data.tokenization import read_images
from igpt_keras.runs import (
    DataOptions,
    Evaluate,
    Finetune,
    Pretrain,
    Probe,
    RunCallback,
    read_result,
)
from igpt_keras.runs.folder import only_writer, read_run
from igpt_keras.training.callbacks.history_logger import read_history

SIZES = {"image_size": 8, "num_layers": 1, "hidden_dim": 16, "num_heads": 1, "num_colors": 8}
SETTINGS = Pretrain.Settings(**SIZES, steps=24, batch_size=32, snapshots=2, learning_rate=0.01)


class Heard(RunCallback):
    """Notes what it is called with."""

    def __init__(self):
        super().__init__()
        self.records, self.progress, self.steps = [], [], 0

    def on_record(self, record):
        self.records.append(record)

    def on_progress(self, stage, done, total):
        self.progress.append((stage, done, total))

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run of pre-training: its folder, its result, and what callbacks and a terminal heard."""
    output = tmp_path_factory.mktemp("runs") / "pretrained"
    heard = Heard()
    run = Pretrain.open(SETTINGS, "digits", output)
    assert (output / "run.json").exists() and not (output / "result.json").exists()
    return output, run.run([heard]), heard


def settings_of(verb, model):
    if verb is Pretrain:
        return SETTINGS
    few = {"layers": [1]} if verb is Probe else {"epochs": 1} if verb is Finetune else {}
    return verb.Settings(model=model, **few)


VERBS = [Pretrain, Finetune, Probe, Evaluate]


@pytest.mark.parametrize("verb", VERBS)
def test_the_result_is_returned_and_written_and_nothing_is_printed(
    verb, pretrained, tmp_path, capfd
):
    settings = settings_of(verb, pretrained[0])
    run = verb.open(settings, "digits", tmp_path / "run", command="mine")
    assert not run.finished
    result = run.run()
    assert result.kind == verb.kind and result.command == "mine"
    assert result == read_result(tmp_path / "run")
    assert result.data["train"] == 1257
    assert capfd.readouterr().out == ""
    # What is finished is read: with nothing left to do, nothing is loaded.
    again = verb.open(settings, "nowhere", tmp_path / "run", resume=True)
    assert again.finished and again.run() == result


@pytest.mark.parametrize("verb", VERBS)
def test_an_earlier_folder_stays(verb, pretrained, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file.txt").write_text("mine")
    settings = settings_of(verb, pretrained[0])
    for overwrite in (False, True):
        with pytest.raises(FileExistsError):
            verb.open(settings, "digits", tmp_path / "precious", overwrite=overwrite)
    assert (tmp_path / "precious" / "file.txt").read_text() == "mine"


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_source_leaves_no_folder(verb, pretrained, tmp_path):
    with pytest.raises((InputError, OSError), match="nowhere"):
        verb.open(settings_of(verb, pretrained[0]), "folder:nowhere", tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", VERBS)
def test_open_of_all_verbs_takes_the_same(verb):
    names = list(inspect.signature(verb.open).parameters)
    assert names == ["settings", "data", "output", "resume", "overwrite", "command"]
    assert getattr(runs, verb.__name__) is verb
    assert dataclasses.fields(verb.Settings)


def test_callbacks_hear_of_steps_and_records(pretrained):
    _, result, heard = pretrained
    assert heard.steps == 24
    evaluated = [record["val_loss"] for record in heard.records if "val_loss" in record]
    assert evaluated == result.metrics["history"]["val_loss"]
    assert [record["step"] for record in heard.records] == [10, 12, 20, 24]


def test_callbacks_hear_of_features_and_probes(pretrained, tmp_path):
    heard = Heard()
    settings = Probe.Settings(model=pretrained[0], layers=[0, 1])
    Probe.open(settings, "digits", tmp_path / "run").run([heard])
    features = [done for stage, done, total in heard.progress if stage == "features"]
    assert features == sorted(features) and features[-1] == 1797
    assert [event for event in heard.progress if event[0] == "probes"] == [
        ("probes", 1, 2),
        ("probes", 2, 2),
    ]


class Stop(RunCallback):
    """Fails at a step, as a crash would."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        self.step -= 1
        if self.step < 0:
            raise RuntimeError("crashed")


@pytest.mark.slow
def test_a_run_that_crashed_is_resumed_to_the_same_end(pretrained, tmp_path):
    settings = dataclasses.replace(SETTINGS, checkpoint_every=5)
    run = Pretrain.open(settings, "digits", tmp_path / "run", resume=True)
    with pytest.raises(RuntimeError, match="crashed"):
        run.run([Stop(17)])
    resumed = Pretrain.open(settings, "digits", tmp_path / "run", resume=True)
    heard = Heard()
    result = resumed.run([heard])
    assert heard.steps == 24 - 15
    assert result.metrics["history"] == pretrained[1].metrics["history"]
    models = [igpt_keras.load(path) for path in (tmp_path / "run", pretrained[0])]
    for ours, theirs in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.fixture(scope="module")
def crashed_once(tmp_path_factory):
    """A run with a checkpoint."""
    output = tmp_path_factory.mktemp("crashed") / "run"
    settings = dataclasses.replace(SETTINGS, log_every=1, checkpoint_every=2)
    with pytest.raises(RuntimeError, match="crashed"):
        Pretrain.open(settings, "digits", output).run([Stop(3)])
    return output


@pytest.fixture
def crashed(pretrained, tmp_path):
    run = Pretrain.open(SETTINGS, "digits", tmp_path / "run")
    with pytest.raises(RuntimeError, match="crashed"):
        run.run([Stop(3)])
    return tmp_path / "run"


def test_resuming_with_other_settings_or_data_is_refused(crashed):
    for settings, data, message in (
        (
            dataclasses.replace(SETTINGS, learning_rate=0.02),
            "digits",
            "learning_rate=0.01, got 0.02",
        ),
        (SETTINGS, DataOptions("digits", split_seed=1), "split_seed=0, got 1"),
    ):
        with pytest.raises(InputError, match=message):
            Pretrain.open(settings, data, crashed, resume=True)
    # What does not change the result may change.
    Pretrain.open(dataclasses.replace(SETTINGS, log_every=3), "digits", crashed, resume=True)


@pytest.mark.slow
def test_a_run_is_resumed_where_its_images_are_now(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    np.save(tmp_path / "a.npy", images)
    run = Pretrain.open(SETTINGS, f"array:{tmp_path}/a.npy", tmp_path / "run")
    with pytest.raises(RuntimeError, match="crashed"):
        run.run([Stop(3)])
    (tmp_path / "a.npy").rename(tmp_path / "b.npy")
    moved = f"array:{tmp_path}/b.npy"
    Pretrain.open(SETTINGS, moved, tmp_path / "run", resume=True).run()
    assert read_run(tmp_path / "run", "pretrain")["options"]["data"] == [moved]


def test_a_run_is_not_resumed_with_other_images(crashed, tmp_path):
    images = np.zeros((40, 8, 8, 3), np.uint8)
    np.save(tmp_path / "a.npy", images)
    for data in (f"array:{tmp_path}/a.npy", "digits@augmentation=cifar", "digits@weight=3"):
        with pytest.raises(InputError, match=f"images {data} changed since .* or is another one"):
            Pretrain.open(SETTINGS, data, crashed, resume=True)


def test_one_process_writes_at_a_time(crashed):
    run = Pretrain.open(SETTINGS, "digits", crashed, resume=True)
    with only_writer(crashed), pytest.raises(InputError, match="another process is training"):
        run.run()


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_a_run_that_is_being_written_is_not_replaced(crashed):
    before = contents(crashed)
    other = dataclasses.replace(SETTINGS, seed=9)
    with only_writer(crashed), pytest.raises(InputError, match="another process is training"):
        Pretrain.open(other, "digits", crashed, overwrite=True)
    assert contents(crashed) == before


def test_a_run_that_was_replaced_after_it_was_opened_is_not_written_to(crashed):
    first = Pretrain.open(SETTINGS, "digits", crashed, overwrite=True)
    Pretrain.open(dataclasses.replace(SETTINGS, seed=9), "digits", crashed, overwrite=True)
    before = contents(crashed)
    with pytest.raises(InputError, match="another process replaced"):
        first.run()
    assert contents(crashed) == before


@pytest.mark.parametrize("name", ["run.json", "tokenizer.json", "SHA256SUMS", "history.jsonl"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\x00"])
def test_a_run_with_a_damaged_file_is_not_resumed(crashed_once, tmp_path, name, content):
    run = tmp_path / "run"
    shutil.copytree(crashed_once, run)
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    with pytest.raises((InputError, FileNotFoundError), match=name):
        Pretrain.open(SETTINGS, "digits", run, resume=True).run()


def test_another_kind_of_run_is_not_resumed(crashed, pretrained):
    with pytest.raises(InputError, match="is a run of igpt pretrain, not of igpt finetune"):
        Finetune.open(settings_of(Finetune, pretrained[0]), "digits", crashed, resume=True)


@pytest.mark.slow
def test_a_probe_by_sgd_is_resumed(pretrained, tmp_path):
    """What a crashed process has fitted is not fitted again."""
    settings = Probe.Settings(model=pretrained[0], layers=[0, 1], method="sgd", epochs=3)
    whole = Probe.open(settings, "digits", tmp_path / "whole").run()

    class Crash(RunCallback):
        def on_progress(self, stage, done, total):
            if (stage, done) == ("probes", 1):
                raise RuntimeError("crashed")

    run = Probe.open(settings, "digits", tmp_path / "cut", resume=True)
    with pytest.raises(RuntimeError, match="crashed"):
        run.run([Crash()])
    checkpoints = tmp_path / "cut-checkpoints"
    fits = sorted(checkpoints.iterdir())
    assert fits and not (tmp_path / "cut").exists()
    before = {file: file.stat().st_mtime_ns for fit in fits for file in fit.glob("step-*")}
    resumed = Probe.open(settings, "digits", tmp_path / "cut", resume=True)

    class Check(RunCallback):
        def on_progress(self, stage, done, total):
            if (stage, done) == ("probes", 1):
                assert {file: file.stat().st_mtime_ns for file in before} == before

    assert resumed.run([Check()]).metrics == whole.metrics
    assert not checkpoints.exists()


def test_check_finds_what_open_would(pretrained):
    Pretrain.check(SETTINGS, "digits")
    for verb, change, message in (
        (Pretrain, {"warmup_steps": 25}, r"warmup_steps must lie in 0…24, .* got 25"),
        (Pretrain, {"steps": None, "epochs": 0.01}, "epochs=0.01 is less than one step; .* 40$"),
        (Finetune, {"layer": 2}, "layer must lie in 0…1, got 2"),
        (Probe, {"layers": [2]}, "layers must lie in 0…1, got 2"),
        (Probe, {"learning_rate": 1.0, "layers": None}, "learning_rate=1.0 is for method=sgd"),
        (Probe, {"method": "nearest"}, "one of attentive, knn, lbfgs, ridge, sgd, got 'nearest'"),
        (Probe, {"baseline": "noise", "layers": None}, "baseline must be one of pixels, tokens"),
    ):
        settings = dataclasses.replace(settings_of(verb, pretrained[0]), **change)
        with pytest.raises(InputError, match=message):
            verb.check(settings, "digits")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 1.0}, "give either epochs or steps, got epochs=1.0 and steps=24"),
        ({"num_heads": None, "hidden_dim": 15}, "hidden_dim=15 and num_heads=2"),
        ({"preset": "large"}, "preset must be one of image_gpt_nano, .*, got 'large'"),
        ({"objective": "gan"}, "objective must be"),
        ({"snapshots": 0}, "snapshots must be at least 1"),
    ],
)
def test_settings_that_contradict_each_other(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SETTINGS, **change)


def test_what_is_left_out_is_completed_and_what_is_given_stays():
    nano = ImageGPTConfig.preset("image_gpt_nano")
    settings = Pretrain.Settings().completed()
    assert settings.config() == nano
    assert (settings.epochs, settings.steps, settings.batch_size) == (20, None, 32)
    assert settings.learning_rate == paper.learning_rate(nano.hidden_dim, 16, "ar")
    assert settings.completed() == settings

    # XL as in section 3.4 and table 5.
    published = Pretrain.Settings(preset="image_gpt_xlarge", steps=7).completed()
    assert (published.steps, published.epochs) == (7, None)
    assert (published.batch_size, published.learning_rate) == (64, 0.0003)
    assert published.config() == ImageGPTConfig.preset("image_gpt_xlarge")
    assert Pretrain.Settings(preset="image_gpt_small", objective="bert").completed() == (
        Pretrain.Settings(
            preset="image_gpt_small",
            objective="bert",
            image_size=32,
            num_layers=24,
            hidden_dim=512,
            num_heads=8,
            num_colors=512,
            epochs=20,
            batch_size=128,
            learning_rate=0.01,
        )
    )

    # A small BERT model does not get the 0.01 of the paper's S; a wide model gets XL's rate.
    assert Pretrain.Settings(objective="bert").completed().learning_rate == 0.003
    assert Pretrain.Settings(hidden_dim=3000).completed().learning_rate == 0.0003

    given = dataclasses.replace(SETTINGS, preset="image_gpt_small", micro_batches=3)
    assert given.completed() == given
    assert Pretrain.Settings(hidden_dim=64).completed().config() == (
        dataclasses.replace(nano, hidden_dim=64)
    )


def test_a_run_notes_what_was_left_out(tmp_path):
    settings = dataclasses.replace(SETTINGS, batch_size=None, learning_rate=None, num_heads=None)
    run = Pretrain.open(settings, "digits", tmp_path / "run")
    options = read_run(run.output, "pretrain")["options"]
    assert (options["batch_size"], options["num_heads"]) == (32, 2)
    assert options["learning_rate"] == 0.003
    # As if it had been given: what completes it may change.
    settings = dataclasses.replace(settings, num_heads=2)
    Pretrain.open(settings, "digits", run.output, resume=True)


@pytest.mark.parametrize("snapshots", [1, 2, 5, 10**9])
def test_every_step_is_trained_and_snapshots_are_nearest_to_the_halves(snapshots):
    """Any number of steps, compared with fractions."""
    for steps in (1, 2, 3, 7, 15, 16, 17, 31, 60, 196, 1000):
        settings = dataclasses.replace(SETTINGS, steps=steps, snapshots=snapshots)
        schedule = settings.schedule(steps_of_data=10)
        assert schedule.evaluations == sorted({*schedule.evaluations})
        assert schedule.evaluations[0] >= 1 and schedule.evaluations[-1] == steps
        assert schedule.snapshots <= {*schedule.evaluations}
        halves = [Fraction(steps, 2**count) for count in range(min(snapshots, 20))]
        for half in halves:
            nearest = min(abs(step - half) for step in range(1, steps + 1))
            assert min(abs(step - half) for step in schedule.snapshots) == nearest
        assert len(schedule.snapshots) <= snapshots
        gaps = np.diff(schedule.evaluations, prepend=0)
        assert gaps.max() - gaps.min() <= 1
        assert len(gaps) == min(steps, 2 ** min(snapshots - 1, 20))


def test_the_warmup_takes_a_pass_over_the_images_or_half_of_a_short_run():
    for steps, expected in ((1, 0), (5, 2), (19, 9), (20, 10), (500, 10)):
        settings = dataclasses.replace(SETTINGS, steps=steps)
        assert settings.schedule(steps_of_data=10).warmup_steps == expected
    assert dataclasses.replace(SETTINGS, warmup_steps=0).schedule(10).warmup_steps == 0


@pytest.mark.slow
def test_the_steps_of_a_run_are_those_asked_for(tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=7, snapshots=3, warmup_steps=2)
    heard = Heard()
    metrics = Pretrain.open(settings, "digits", tmp_path / "run").run([heard]).metrics
    assert heard.steps == 7
    assert metrics["history"]["step"] == [2, 4, 5, 7]
    assert [saved["step"] for saved in metrics["snapshots"]] == [2, 4, 7]
    rates = {r["step"]: r["learning_rate"] for r in read_history(tmp_path / "run")}
    # 0 and a half of the peak, then a cosine over five steps. A record has its last step's rate.
    closed_form = [0, 0.5, *((1 + math.cos(math.pi * step / 5)) / 2 for step in range(5))]
    for step, rate in rates.items():
        assert rate == pytest.approx(0.01 * closed_form[step - 1], abs=1e-8)


def test_settings_and_data_of_another_seed_make_another_palette(pretrained, tmp_path):
    data = DataOptions("digits")
    first = Pretrain.open(SETTINGS, data, tmp_path / "a").tokenizer
    assert Pretrain.open(SETTINGS, data, tmp_path / "b").tokenizer is first
    other = Pretrain.open(dataclasses.replace(SETTINGS, seed=1), data, tmp_path / "c").tokenizer
    assert (other.colors != first.colors).any()
    images = read_images(open_data("digits").train, 8).images
    own = igpt_keras.ColorPalette.fit(images, 8, seed=0)
    np.testing.assert_array_equal(first.colors, own.colors)


@pytest.mark.slow
def test_a_run_of_a_version_with_fewer_options_has_their_defaults(tmp_path):
    run = tmp_path / "run"
    Pretrain.open(SETTINGS, "digits", run)
    content = json.loads((run / "run.json").read_text())
    for name in ("attention", "axial_positions", "initializer"):
        del content["options"][name]
    (run / "run.json").write_text(json.dumps(content))
    (run / "SHA256SUMS").unlink()
    write_checksums(run)
    resumed = Pretrain.open(SETTINGS, "digits", run, resume=True)
    assert not resumed.finished and resumed.settings.attention == "dense"
    sparse = dataclasses.replace(SETTINGS, attention="strided")
    with pytest.raises(InputError, match="run began with attention=dense, got strided"):
        Pretrain.open(sparse, "digits", run, resume=True)
