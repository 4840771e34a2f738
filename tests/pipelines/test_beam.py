import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from igpt_keras import ColorPalette, InputError
from igpt_keras.pipelines.beam import BeamRunner
from igpt_keras.pipelines.tokens import write_tokens
from tests.pipelines.serial import SerialRunner

pytest.importorskip("apache_beam")
IGPT = pathlib.Path(sys.executable).with_name("igpt")
TWO_PROCESSES = ["direct_num_workers=2", "direct_running_mode=multi_processing"]


def shard_files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tfrecord"))}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.npy"
    generator = np.random.default_rng(0)
    np.save(path, generator.integers(0, 256, (150, 6, 6, 3)).astype(np.uint8))
    return path


@pytest.fixture
def settings(palette):
    return {"tokenizer": palette.bind(4), "images_per_shard": 32}


def test_beam_makes_the_shards_of_one_process(images, settings, tmp_path):
    write_tokens(f"array:{images}", tmp_path / "serial", runner=SerialRunner(), **settings)
    write_tokens(f"array:{images}", tmp_path / "beam", runner=BeamRunner(), **settings)
    assert len(shard_files(tmp_path / "beam")) == 6
    assert shard_files(tmp_path / "beam") == shard_files(tmp_path / "serial")


def test_an_error_of_a_worker_is_that_of_the_call(settings, tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(3):
        (tmp_path / "photos" / f"{index}.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read as an image"):
        write_tokens(f"folder:{tmp_path / 'photos'}", tmp_path / "tokens", **settings)


def test_runners_and_options_must_exist():
    with pytest.raises(InputError, match="runner=WalkingRunner cannot be used: .*WalkingRunner"):
        BeamRunner("WalkingRunner")
    with pytest.raises(InputError, match="option must be NAME=VALUE of Beam's, got 'workers=2'"):
        BeamRunner(options=["workers=2"])


@pytest.mark.slow
def test_processes_that_are_killed_lose_nothing(palette, tmp_path):
    """Two worker processes; all are killed when some shards are done, and the command repeated."""
    palette.save(tmp_path / "palette.npy")
    np.save(
        tmp_path / "images.npy",
        np.random.default_rng(0).integers(0, 256, (1200, 8, 8, 3)).astype(np.uint8),
    )
    common = (
        "--data",
        f"array:{tmp_path / 'images.npy'}",
        "--tokenizer",
        tmp_path / "palette.npy",
        "--image-size",
        8,
        "--images-per-shard",
        32,
    )
    words = [IGPT, "tokenize", *common, "--output", tmp_path / "tokens"]
    words += [word for option in TWO_PROCESSES for word in ("--pipeline-option", option)]
    process = subprocess.Popen([*map(str, words)], start_new_session=True)
    deadline = time.monotonic() + 120
    while len(shard_files(tmp_path / "tokens")) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").glob("*.json")}
    assert len(done) >= 3 and not (tmp_path / "tokens" / "tokens.json").exists()
    subprocess.run([*map(str, words)], check=True)
    write_tokens(
        f"array:{tmp_path / 'images.npy'}",
        tmp_path / "serial",
        tokenizer=ColorPalette.load(tmp_path / "palette.npy").bind(8),
        images_per_shard=32,
        runner=SerialRunner(),
    )
    assert shard_files(tmp_path / "tokens") == shard_files(tmp_path / "serial")
    assert {path: path.stat().st_mtime_ns for path in done} == done
