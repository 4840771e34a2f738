"""What a command says while it is busy."""

import io
import logging

import pytest
from rich.console import Console

from igpt_keras.cli import slow_stages as module
from igpt_keras.cli.slow_stages import SlowStages, slow_stages
from igpt_keras.cli.stages import StageBars
from igpt_keras.data import open_data, read_images
from igpt_keras.data.tokenization import tokenize
from igpt_keras.stages import LOGGER, stage
from igpt_keras.tokenizers import ColorPalette
from igpt_keras.training.callbacks.first_step import FirstStep


class Timer:
    """A timer that a test lets run out."""

    started: list["Timer"] = []

    def __init__(self, seconds, function, arguments, keywords):
        self.seconds, self.canceled = seconds, False
        self._call = lambda: function(*arguments, **keywords)

    def start(self):
        self.started.append(self)

    def cancel(self):
        self.canceled = True

    def run_out(self):
        if not self.canceled:
            self._call()


@pytest.fixture
def timers(monkeypatch):
    monkeypatch.setattr(module.threading, "Timer", Timer)
    Timer.started = []
    return Timer.started


def test_only_a_stage_that_lasts_is_told(timers, capsys):
    with slow_stages(SlowStages(7)):
        with stage("reading 1 image"):
            pass
        with stage("fitting a palette to 100 images"):
            timers[-1].run_out()
        with stage("hashing"):
            pass
    assert [timer.seconds for timer in timers] == [7] * 3
    assert all(timer.canceled for timer in timers)
    timers[0].run_out()
    timers[-1].run_out()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["igpt: fitting a palette to 100 images …"]


def test_the_logger_is_left_as_it_was(timers):
    def state():
        logger = logging.getLogger(LOGGER)
        return logger.level, logger.propagate, list(logger.handlers)

    before = state()
    with pytest.raises(RuntimeError), slow_stages(SlowStages()), stage("working"):
        raise RuntimeError
    assert state() == before
    assert timers[-1].canceled


def test_work_that_takes_long_is_a_stage(caplog):
    split = open_data("digits").test
    callback = FirstStep()
    with caplog.at_level("INFO", logger=LOGGER):
        images = read_images(split, 8, limit=1).images
        tokenize(split, ColorPalette.fit(images, 2))
        callback.on_train_begin()
        callback.on_train_batch_end(0)
        callback.on_train_batch_end(1)
        callback.on_train_end()
    told = [(r.getMessage(), getattr(r, "finished", False)) for r in caplog.records]
    assert told == [
        (message, finished)
        for message in (
            "reading 1 image of digits, test",
            "tokenizing 360 images of digits, test",
            "compiling the training step",
        )
        for finished in (False, True)
    ]


def test_without_a_terminal_progress_is_a_line_now_and_then():
    shown = io.StringIO()
    clock = iter([0, 3, 11, 12, 21, 22]).__next__
    with StageBars(Console(file=shown), clock) as bars:
        for done in range(1000, 6000, 1000):
            bars.on_progress("features", done, 5000)
    assert shown.getvalue().splitlines() == [
        "igpt: features: 2,000 of 5,000",
        "igpt: features: 4,000 of 5,000",
    ]
