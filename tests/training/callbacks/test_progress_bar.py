import io
import json
import re
import time

import numpy as np
import pytest
from rich.console import Console

from igpt_keras import ImageGPT, InputError
from igpt_keras.training.callbacks.history_logger import HistoryLogger, read_history
from igpt_keras.training.callbacks.progress_bar import ProgressBar

METRICS = ("loss", "bits_per_pixel", "val_loss", "other")


@pytest.fixture
def model(config):
    model = ImageGPT(config)
    model.compile("adam", run_eagerly=True)
    return model


def fit(model, tokens, callbacks, **settings):
    return model.fit(
        tokens,
        validation_data=(tokens, None),
        batch_size=2,
        callbacks=callbacks,
        verbose=0,
        **{"epochs": 2, **settings},
    ).history


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=200)


def test_at_a_terminal_it_is_one_bar(model, tokens):
    console = terminal()
    with ProgressBar("pre-training", METRICS, console=console) as bar:
        history = fit(model, tokens, [bar])
    last = console.file.getvalue().rstrip().splitlines()[-2]
    assert "pre-training" in last and "━" in last
    loss, bits, validation = (history[name][-1] for name in METRICS[:3])
    figures = f"6/6 loss {loss:.3f} nats, {bits:.3f} bits/pixel, val_loss {validation:.3f}"
    assert figures in last


def test_elsewhere_it_is_a_line_an_epoch(model, tokens, capsys):
    with ProgressBar("pre-training", METRICS) as bar:
        history = fit(model, tokens, [bar])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for epoch, line in enumerate(lines):
        loss, validation = history["loss"][epoch], history["val_loss"][epoch]
        assert line.startswith(f"pre-training: step {3 + 3 * epoch}/6, loss {loss:.3f} nats, ")
        assert f", val_loss {validation:.3f}, " in line
        assert re.search(r", \d+:\d\d:\d\d left$", line)
    assert lines[-1].endswith("0:00:00 left")


def test_with_a_logger_the_metrics_are_those_of_its_records(model, tokens, tmp_path, capsys):
    with ProgressBar("pre-training", METRICS) as bar:
        logger = HistoryLogger(tmp_path, every=2, batch_size=2, listeners=[bar.on_record])
        fit(model, tokens, [logger, bar])
    lines = capsys.readouterr().out.splitlines()
    ends = [record for record in read_history(tmp_path) if "val_loss" in record]
    # The first record, and then the ends of epochs: the others follow within ten seconds.
    assert [re.search(r"step (\d+)/6", line)[1] for line in lines] == ["2", "3", "6"]
    for line, record in zip(lines[1:], ends, strict=True):
        assert f"val_loss {record['val_loss']:.3f}" in line
    assert f"loss {ends[0]['loss']:.3f} nats" in lines[1]
    assert " images/s" in lines[1]


def test_json_has_one_object_a_record(model, tokens, tmp_path, capsys):
    with ProgressBar("run", METRICS, form="json") as bar:
        logger = HistoryLogger(tmp_path, every=2, batch_size=2, listeners=[bar.on_record])
        fit(model, tokens, [logger, bar])
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    records = read_history(tmp_path)
    assert len(objects) == len(records) == 5
    for shown, record in zip(objects, records, strict=True):
        assert shown["run"] == "run" and shown["total_steps"] == 6
        assert {**shown, **record} == shown
    assert objects[-1]["seconds_left"] == 0


def test_json_without_a_logger_has_one_object_an_epoch(model, tokens, capsys):
    with ProgressBar("run", (), form="json") as bar:
        history = fit(model, tokens, [bar])
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["step"] for each in objects] == [3, 6]
    assert [each["loss"] for each in objects] == history["loss"]


def test_quiet_says_nothing(model, tokens, tmp_path, capsys):
    with ProgressBar("run", METRICS, form="quiet") as bar:
        fit(model, tokens, [HistoryLogger(tmp_path, 2, 2, listeners=[bar.on_record]), bar])
    assert capsys.readouterr().out == ""


def test_a_resumed_run_counts_all_steps_and_its_own_speed(model, tokens):
    """20 of 30 steps were done; in this process two of 50 ms or more: 6 are left after them."""

    class Slow(ProgressBar):
        def on_train_batch_end(self, batch, logs=None):
            time.sleep(0.05)
            super().on_train_batch_end(batch, logs)

    model.optimizer.iterations.assign(20)
    bar = Slow("run", METRICS, total_steps=30, console=terminal())
    first = {"steps_per_epoch": 2, "initial_epoch": 2, "epochs": 3}
    fit(model, tokens[:4], [bar], **first)
    assert bar.progress.tasks[0].fields["position"] == "22/30"
    assert 8 * 0.05 <= bar.progress.tasks[0].time_remaining
    assert bar.progress.tasks[0].speed <= 1 / 0.05
    fit(model, tokens, [bar], initial_epoch=3, epochs=4)
    assert bar.progress.tasks[0].fields["position"] == "25/30"


def test_the_terminal_is_as_before_when_the_run_fails(model):
    with (
        pytest.raises(InputError),
        ProgressBar("pre-training", ("loss",), console=terminal()) as bar,
    ):
        assert bar.progress.live.is_started
        model.fit(np.zeros((2, 3), np.int32), callbacks=[bar], verbose=0)
    assert not bar.progress.live.is_started


def test_another_form_is_an_error():
    with pytest.raises(InputError, match="form must be one of auto, json, quiet, got 'loud'"):
        ProgressBar("run", (), form="loud")
