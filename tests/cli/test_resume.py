"""`igpt pretrain --resume`: runs that are killed or told to stop, in processes of their own."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import igpt_keras
from igpt_keras.training.journal import TIMED, read_history

IGPT = pathlib.Path(sys.executable).with_name("igpt")
SETTINGS = ["--data", "digits", "--image-size", 8, "--num-layers", 1, "--hidden-dim", 16]
SETTINGS += ["--num-heads", 1, "--num-colors", 8, "--steps", 200, "--batch-size", 16]
SETTINGS += ["--checkpoints", 3, "--save-every", 1, "--log-every", 7, "--learning-rate", 0.01]


def start(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    return subprocess.Popen(
        [IGPT, "pretrain", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process):
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def states(run):
    return sorted(path.name for path in run.glob("states/step-*/state.json"))


def last_state(run):
    return max(
        (
            int(path.parent.name.removeprefix("step-"))
            for path in run.glob("states/step-*/state.json")
        ),
        default=0,
    )


def wait_for_steps(process, run, count):
    """Until `count` more steps are on disk."""
    before = last_state(run)
    while process.poll() is None and last_state(run) < before + count:
        time.sleep(0.01)


def wait_for_a_write(process, run):
    """Until a state is being written."""
    while process.poll() is None and not list(run.glob("states/.step-*")):
        pass


def assert_same_run(first, second):
    for path in ("model", "checkpoints/step-00000050", "checkpoints/best"):
        models = [igpt_keras.load(run / path) for run in (first, second)]
        for ours, theirs in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    histories = [
        [{k: v for k, v in record.items() if k not in TIMED} for record in read_history(run)]
        for run in (first, second)
    ]
    assert histories[0] == histories[1]


def kill_and_resume(tmp_path, settings, kills, seed):
    """Kills a run while it writes a state, `kills` times after a random number of steps."""
    generator = random.Random(seed)
    whole = start(*settings, "--output", tmp_path / "whole")
    status, _, errors = finish(whole)
    assert status == 0, errors
    run = tmp_path / "cut"
    process = start(*settings, "--output", run)
    wait_for_a_write(process, run)
    for _ in range(kills):
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
        process = start("--resume", run)
        wait_for_steps(process, run, generator.randint(1, 180 // kills))
        time.sleep(generator.random() * 0.05)
    process.send_signal(signal.SIGTERM)
    status, _, errors = finish(process)
    assert status == 128 + signal.SIGTERM, errors
    assert f"go on with igpt pretrain --resume {run}" in errors
    assert 0 < last_state(run) < 200
    status, output, errors = finish(start("--resume", run))
    assert status == 0, errors
    assert_same_run(run, tmp_path / "whole")
    assert not list(run.rglob(".*unfinished"))
    return run


@pytest.mark.slow
def test_a_run_that_was_killed_ends_like_one_that_was_not(tmp_path):
    run = kill_and_resume(tmp_path, SETTINGS, kills=1, seed=0)
    status, output, _ = finish(start("--resume", run))
    assert (status, output) == (0, f"{run} is finished, nothing is left to do\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [["--objective", "bert"], ["--precision", "mixed_float16", "--micro-batches", 2]]
)
def test_a_run_that_was_killed_many_times(tmp_path, more):
    kill_and_resume(tmp_path, [*SETTINGS, *more], kills=5, seed=1)
