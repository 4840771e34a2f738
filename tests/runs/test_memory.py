"""Trainings that do not fit into memory, which a limit of this process makes small."""

import contextlib
import dataclasses
import json
import pathlib
import resource

import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import InputError
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.runs import Pretrain
from igpt_keras.runs.memory import MemoryPlan, out_of_memory_named
from igpt_keras.training.memory import Layout

GIGABYTE = 10**9


@contextlib.contextmanager
def available(size):
    """Lets this process take `size` more bytes of address space."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def settings(palette, tmp_path):
    """The paper's S at 32², whose default batch needs a hundred times this machine."""
    np.save(tmp_path / "palette.npy", palette.colors)
    return Pretrain.Settings(
        preset="image_gpt_small",
        steps=1,
        tokenizer=str(tmp_path / "palette.npy"),
    )


def test_micro_batches_are_chosen_to_fit_and_kept_when_the_run_is_resumed(settings, tmp_path):
    with available(8 * GIGABYTE):
        run = Pretrain.open(settings, "digits", tmp_path / "run")
    parts = run.settings.micro_batches
    assert parts > 1 and 128 % parts == 0
    assert run.memory.needed <= 8 * GIGABYTE < run.memory.layout.batch_size * GIGABYTE
    assert run.evaluation_batch_size == 128 // parts
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert content["options"]["micro_batches"] == parts
    resumed = Pretrain.open(settings, "digits", tmp_path / "run", resume=True)
    assert resumed.settings.micro_batches == parts


@pytest.mark.parametrize("micro_batches", ["auto", 1])
def test_what_does_not_fit_is_refused_with_settings_that_do(settings, tmp_path, micro_batches):
    settings = dataclasses.replace(settings, micro_batches=micro_batches)
    with available(3 * GIGABYTE), pytest.raises(InputError, match="available") as raised:
        Pretrain.open(settings, "digits", tmp_path / "run")
    assert "remat=True with micro_batches=" in str(raised.value)
    assert "image_size=" in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_small_model_has_no_micro_batches(tmp_path):
    sizes = {"image_size": 8, "num_layers": 1, "hidden_dim": 16, "num_heads": 1, "num_colors": 8}
    run = Pretrain.open(Pretrain.Settings(**sizes, steps=1), "digits", tmp_path / "run")
    assert run.settings.micro_batches == 1


def test_an_error_of_tensorflow_names_what_needs_less():
    config = ImageGPTConfig.preset("image_gpt_small")
    plan = MemoryPlan(config, Layout(128), None)
    with pytest.raises(InputError, match=r"out of memory .*micro_batches=\d+ .*remat=True"):
        with out_of_memory_named(plan):
            tf.zeros([1 << 45])


def test_other_errors_pass():
    plan = MemoryPlan(ImageGPTConfig.preset("image_gpt_small"), Layout(1), None)
    with pytest.raises(tf.errors.InvalidArgumentError), out_of_memory_named(plan):
        tf.reshape(tf.zeros([2]), [3])
