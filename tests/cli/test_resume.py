"""`--resume`: runs that are killed or told to stop, in processes of their own."""

import random
import shlex
import signal
import time

import numpy as np
import pytest

import igpt_keras
from igpt_keras.runs.result import read_result
from igpt_keras.tokenizers import load_tokenizer
from igpt_keras.training.callbacks.history_logger import TIMED, read_history
from tests.cli.processes import finish, last_checkpoint, start, wait_for_checkpoint

ON_THE_CLOCK = ("images_per_second", "minutes")
COMMON = ["--data", "digits", "--batch-size", 16, "--learning-rate", 0.01]
COMMON += ["--checkpoint-every", 1, "--log-every", 7]
SIZES = ["--image-size", 8, "--num-layers", 1, "--hidden-dim", 16, "--num-heads", 1]
SIZES += ["--num-colors", 8]
PRETRAIN = ["pretrain", *COMMON, *SIZES, "--steps", 200, "--snapshots", 3]
FINETUNE = ["finetune", "MODEL", *COMMON, "--labels-per-class", 30, "--epochs", 11]
FIT_VQVAE = ["tokenizer", "fit", "vqvae", *COMMON, "--image-size", 8, "--codebook-size", 16]
FIT_VQVAE += ["--hidden-dim", 8, "--residual-dim", 4, "--embedding-dim", 4, "--steps", 200]


def wait_for_steps(process, run, count):
    """Until `count` more steps are on disk."""
    wait_for_checkpoint(process, run / "checkpoints", last_checkpoint(run / "checkpoints") + count)


def wait_for_a_write(process, run):
    """Until a state is being written."""
    while process.poll() is None and not list(run.glob("checkpoints/.step-*")):
        pass


def assert_same_run(first, second):
    paths = [path.parent.relative_to(first) for path in first.rglob("igpt.json")]
    assert paths == [path.parent.relative_to(second) for path in second.rglob("igpt.json")]
    for path in paths:
        models = [igpt_keras.load(run / path) for run in (first, second)]
        for ours, theirs in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    tokenizers = [load_tokenizer(run) for run in (first, second)]
    assert tokenizers[0].fingerprint() == tokenizers[1].fingerprint()
    histories = [
        [{k: v for k, v in record.items() if k not in TIMED} for record in read_history(run)]
        for run in (first, second)
    ]
    assert histories[0] == histories[1]
    results = [read_result(run) for run in (first, second)]
    metrics = [{k: v for k, v in r.metrics.items() if k not in ON_THE_CLOCK} for r in results]
    assert metrics[0] == metrics[1]


def kill_and_resume(tmp_path, arguments, kills, seed):
    """Kills a run while it writes a state, `kills` times after a random number of steps."""
    generator = random.Random(seed)
    whole = start(*arguments, "--output", tmp_path / "whole")
    status, _, errors = finish(whole)
    assert status == 0, errors
    steps = read_history(tmp_path / "whole")[-1]["step"]
    run, words = tmp_path / "cut", 3 if arguments[0] == "tokenizer" else 1
    resume = [*arguments[:words], "--resume", run]
    process = start(*arguments, "--output", run)
    wait_for_a_write(process, run)
    for _ in range(kills):
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
        process = start(*resume)
        wait_for_steps(process, run, generator.randint(1, steps * 9 // 10 // kills))
        time.sleep(generator.random() * 0.05)
    process.send_signal(signal.SIGTERM)
    status, _, errors = finish(process)
    assert status == 128 + signal.SIGTERM, errors
    assert f"resume with: igpt {shlex.join(map(str, resume))}" in errors
    assert 0 < last_checkpoint(run / "checkpoints") < steps
    status, output, errors = finish(start(*resume))
    assert status == 0, errors
    assert_same_run(run, tmp_path / "whole")
    assert not list(run.rglob(".*unfinished"))
    assert not (run / "checkpoints").exists()
    return run


@pytest.mark.slow
def test_a_run_that_was_killed_ends_like_one_that_was_not(tmp_path):
    run = kill_and_resume(tmp_path, PRETRAIN, kills=1, seed=0)
    assert {"step-00000050", "best"} <= {path.name for path in (run / "snapshots").iterdir()}
    status, output, _ = finish(start("pretrain", "--resume", run))
    assert (status, output) == (0, f"{run} is finished: nothing is left to do\n")


@pytest.mark.slow
def test_a_vqvae_that_was_killed_ends_like_one_that_was_not(tmp_path):
    run = kill_and_resume(tmp_path, FIT_VQVAE, kills=2, seed=3)
    status, output, _ = finish(start("tokenizer", "fit", "vqvae", "--resume", run))
    assert (status, output) == (0, f"{run} is finished: nothing is left to do\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [["--objective", "bert"], ["--precision", "mixed_float16", "--micro-batches", 2]]
)
def test_a_run_that_was_killed_many_times(tmp_path, more):
    kill_and_resume(tmp_path, [*PRETRAIN, *more], kills=5, seed=1)


@pytest.fixture(scope="module", params=["ar", "bert"])
def model(request, tmp_path_factory):
    """A model that was trained for a few steps."""
    folder = tmp_path_factory.mktemp("model") / request.param
    arguments = ["--data", "digits", *SIZES, "--steps", 8, "--snapshots", 1, "--batch-size", 16]
    process = start("pretrain", *arguments, "--objective", request.param, "--output", folder)
    status, _, errors = finish(process)
    assert status == 0, errors
    return folder


@pytest.mark.slow
def test_adapters_that_were_killed_end_like_others(model, tmp_path):
    arguments = [model if word == "MODEL" else word for word in FINETUNE]
    arguments += ["--lora-rank", 2, "--precision", "mixed_bfloat16", "--remat"]
    kill_and_resume(tmp_path, arguments, kills=2, seed=4)
    files = [tmp_path / name / "adapters" / "adapters.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_a_fine_tuning_that_was_killed_many_times(model, tmp_path):
    arguments = [model if word == "MODEL" else word for word in FINETUNE]
    run = kill_and_resume(tmp_path, arguments, kills=3, seed=2)
    assert read_result(run).metrics["best_epoch"] > 1
    status, output, _ = finish(start("finetune", "--resume", run))
    assert (status, output) == (0, f"{run} is finished: nothing is left to do\n")
