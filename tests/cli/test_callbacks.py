import sys

import click
import keras
import pytest

from igpt_keras.cli.callbacks import load_callbacks
from igpt_keras.training import read_history

MODULE = """
import pathlib

import keras


class Recorder(keras.callbacks.Callback):
    def __init__(self, path="records.txt"):
        super().__init__()
        self.path = pathlib.Path(path)

    def on_epoch_end(self, epoch, logs=None):
        with self.path.open("a") as file:
            print(epoch, round(logs["val_loss"], 6), file=file)


def to_another_file():
    return Recorder("others.txt")


class Nested:
    recorder = Recorder("nested.txt")


def not_a_callback():
    return [Recorder()]
"""


@pytest.fixture
def tracking(tmp_path, monkeypatch):
    """A module of the user in the working directory, which is left afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "our_tracking.py").write_text(MODULE)
    yield tmp_path
    sys.modules.pop("our_tracking", None)


def test_a_class_a_function_and_a_callback(tracking):
    names = ["Recorder", "to_another_file", "Nested.recorder"]
    made = load_callbacks([f"our_tracking:{name}" for name in names])
    assert [callback.path.name for callback in made] == ["records.txt", "others.txt", "nested.txt"]
    (installed,) = load_callbacks(["keras.callbacks:TerminateOnNaN"])
    assert isinstance(installed, keras.callbacks.TerminateOnNaN)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("our_tracking", "must be MODULE:NAME, got 'our_tracking'"),
        (":Recorder", "must be MODULE:NAME, got ':Recorder'"),
        ("elsewhere:Recorder", "found no module elsewhere, installed or in the working directory"),
        ("our_tracking:Lost", "found no Lost in the module our_tracking"),
        ("our_tracking:not_a_callback", "must lead to a keras.callbacks.Callback, got list of"),
    ],
)
def test_a_path_that_leads_nowhere(tracking, igpt, path, message):
    with pytest.raises(click.BadParameter, match=message):
        load_callbacks([path])
    status, _, errors = igpt("pretrain", "--data", "digits", "--output", "run", "--callback", path)
    assert status == 2 and message in errors and not (tracking / "run").exists()


def test_an_error_inside_of_a_module_is_its_own(tracking):
    (tracking / "our_tracking.py").write_text("import a_module_that_is_missing")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_missing"):
        load_callbacks(["our_tracking:Recorder"])


@pytest.mark.slow
def test_training_calls_it_and_a_finished_run_does_not(tracking, igpt):
    sizes = ["--image-size", 8, "--num-layers", 1, "--hidden-dim", 16, "--num-heads", 1]
    settings = ["--num-colors", 4, *sizes, "--steps", 4, "--snapshots", 2, "--output", "run"]
    callback = ["--callback", "our_tracking:Recorder"]
    status, _, errors = igpt("pretrain", "--data", "digits", *settings, *callback)
    assert status == 0, errors
    lines = (tracking / "records.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1"]
    losses = [record["val_loss"] for record in read_history("run") if "val_loss" in record]
    assert [float(line.split()[1]) for line in lines] == pytest.approx(losses, abs=1e-5)
    status, _, errors = igpt("pretrain", "--resume", "run", *callback)
    assert status == 0, errors
    assert (tracking / "records.txt").read_text().splitlines() == lines
