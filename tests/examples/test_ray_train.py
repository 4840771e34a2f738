"""Two workers of Ray Train end where one process ends, also if one of them is killed."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import igpt_keras
from igpt_keras.runs import Pretrain, read_result
from igpt_keras.tokenizers import load_tokenizer
from tests.cli.processes import last_checkpoint

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "ray_train.py"
SETTINGS = {
    "image_size": 8,
    "num_colors": 8,
    "num_layers": 1,
    "hidden_dim": 16,
    "num_heads": 2,
    "batch_size": 16,
    "learning_rate": 0.001,
    "snapshots": 1,
    "checkpoint_every": 20,
}
STEPS = 200


def start(folder, output, *arguments, **settings):
    words = [f"{name}={value}" for name, value in (SETTINGS | settings).items()]
    command = [EXAMPLE, "--data", "digits", "--output", output, *arguments, *words]
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def training_workers(ancestor):
    """The processes that train below another one."""
    parents, workers = {}, []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            if "RayTrainWorker" in (folder / "cmdline").read_text():
                workers.append(int(folder.name))
        except OSError:
            continue  # It has ended.

    def descends(pid):
        return pid == ancestor or (pid in parents and descends(parents[pid]))

    return sorted(filter(descends, workers))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of one process, without Ray."""
    run = tmp_path_factory.mktemp("one") / "run"
    Pretrain.open(Pretrain.Settings(**SETTINGS, steps=STEPS), "digits", run).run()
    return run


def assert_same_run(run, expected):
    assert load_tokenizer(run).fingerprint() == load_tokenizer(expected).fingerprint()
    models = [igpt_keras.load(folder / "model") for folder in (run, expected)]
    for ours, theirs in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    losses = [read_result(folder).metrics["validation_loss"] for folder in (run, expected)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_two_workers_end_where_one_process_ends(tmp_path, whole, killed):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    run = tmp_path / "runs" / "two"
    process = start(tmp_path, "runs/two", "--num-workers", 2, steps=STEPS)
    if killed:
        while process.poll() is None and last_checkpoint(run / "checkpoints") < 40:
            time.sleep(0.01)
        workers = training_workers(process.pid)
        assert len(workers) == 2
        os.kill(workers[-1], signal.SIGKILL)
        assert last_checkpoint(run / "checkpoints") < STEPS
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    loss = read_result(run).metrics["validation_loss"]
    assert f"Validation loss: {loss:.4f} nats per token. Wrote runs/two\n" in output
    assert ("[FailurePolicy] RETRY" in output) == killed, output
    assert_same_run(run, whole)


@pytest.mark.slow
def test_training_that_diverges_is_not_started_again(tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    process = start(tmp_path, "run", "--num-workers", 1, steps=STEPS, learning_rate=1e9)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 3, output
    assert re.search(r"^training diverged at step \d+", output, re.MULTILINE)
    assert output.count("Attempting to start training worker group") == 1
