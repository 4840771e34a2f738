"""Signals: a first one at any moment of a training, and a second one outside Python."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from igpt_keras.cli.signals import ended_by_second_signal
from tests.cli.processes import IGPT, finish, last_checkpoint, start, wait_for_checkpoint
from tests.training.replicas import free_ports

SIZES = ["--image-size", 4, "--num-colors", 8, "--num-layers", 1, "--hidden-dim", 16]
ROUNDS = 6

# Calls of C release the interpreter as TensorFlow's do, and Python's handlers wait for their end.
BUSY = """
import ctypes, signal
from igpt_keras.cli.signals import ended_by_second_signal

signal.signal(signal.SIGTERM, lambda number, frame: None)
signal.signal(signal.SIGINT, lambda number, frame: None)
library = ctypes.CDLL(None)
with ended_by_second_signal("ended", first="once more"):
    print("ready", flush=True)
    while True:
        library.poll(None, 0, 1 << 30)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_with_a_line(number):
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stderr.readline() == "once more\n"
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert process.stderr.read() == "ended\n"


def test_one_signal_is_left_to_python(capfd):
    caught = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    descriptors = set(os.listdir("/proc/self/fd"))
    try:
        with ended_by_second_signal("ended", first="once more"):
            signal.raise_signal(signal.SIGTERM)
        with ended_by_second_signal("ended"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught == [signal.SIGTERM] * 2
    assert capfd.readouterr().err == "once more\n"
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.slow
def test_training_on_files_ends_at_any_moment(photos, tmp_path):
    """Threads that read files while the interpreter ends, once kept it from ending."""
    generator = random.Random(0)
    run, before = tmp_path / "run", 0
    command = ["pretrain", "--data", f"folder:{photos}", *SIZES, "--num-heads", 1]
    command += ["--batch-size", 8, "--steps", 1_000_000, "--checkpoint-every", 5, "--output", run]
    for _ in range(ROUNDS):
        process = start(*command)
        wait_for_checkpoint(process, run / "checkpoints", before + 1)
        time.sleep(generator.random())
        process.send_signal(signal.SIGTERM)
        status, _, errors = finish(process)
        after = last_checkpoint(run / "checkpoints")
        assert status == 128 + signal.SIGTERM, errors
        assert f"training was stopped after step {after}; resume with" in errors
        assert after > before
        assert not list(run.rglob(".*unfinished"))
        before, command = after, ["pretrain", "--resume", run]


@pytest.mark.slow
def test_workers_that_train_together_end_at_once(photos, tmp_path):
    """TensorFlow's workers catch SIGTERM, and would only note it."""
    run, workers = tmp_path / "run", [f"127.0.0.1:{port}" for port in free_ports(2)]
    command = [IGPT, "pretrain", "--data", f"folder:{photos}", *SIZES, "--num-heads", 1]
    command += ["--batch-size", 8, "--steps", 1_000_000, "--checkpoint-every", 5, "--output", run]
    processes = []
    for index in range(2):
        cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
        processes.append(subprocess.Popen([*map(str, command)], env=environment))
    try:
        wait_for_checkpoint(processes[0], run / "checkpoints", 5)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        statuses = [process.wait(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    # One that sees the other go first, ends with an error.
    assert -signal.SIGTERM in statuses and 0 not in statuses
    assert last_checkpoint(run / "checkpoints") >= 5
