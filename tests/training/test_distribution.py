"""Replicas and workers end where one device ends, on the same global batches."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import ImageGPT
from igpt_keras.training.recipes import adam
from igpt_keras.training.strategies import make_strategy
from tests.training.replicas import CONFIG, KINDS, data, free_ports, train

ROOT = pathlib.Path(__file__).parents[2]


def mirrored():
    return make_strategy("mirrored")


@functools.cache
def single_device(kind):
    """What one device ends with."""
    return train(tf.distribute.get_strategy(), **KINDS[kind])


def assert_same(result, expected, tolerance=1e-5):
    """`tolerance` is that of the weights, of which the rest adds up many."""
    for name, values in expected.items():
        atol = tolerance if name == "weights" else 10 * tolerance
        np.testing.assert_allclose(result[name], values, rtol=0, atol=atol, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_replicas_end_where_one_ends(kind):
    assert_same(train(mirrored(), **KINDS[kind]), single_device(kind))


@pytest.mark.parametrize(
    "strategy", [tf.distribute.get_strategy, pytest.param(mirrored, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("steps", [3, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_several_steps_an_execution_end_where_single_ones_end(strategy, steps):
    # Four batches are an epoch: the second, or the first, execution meets the end of the data.
    result = train(strategy(), steps_per_execution=steps, **KINDS["bert"])
    assert_same(result, single_device("bert"))


@pytest.mark.slow
def test_two_workers_end_where_one_ends(tmp_path):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        command = [sys.executable, "-m", "tests.training.worker", tmp_path / f"worker-{index}"]
        environment = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment))
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    for index in range(2):
        for kind in KINDS:
            assert_same(np.load(tmp_path / f"worker-{index}" / f"{kind}.npz"), single_device(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "conditional", "classifier"])
def test_micro_batches_and_remat_end_where_whole_batches_end(kind):
    cut = train(mirrored(), micro_batches=3, remat=True, **KINDS[kind])
    assert_same(cut, single_device(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ar", "bert", "conditional"])
def test_the_step_compiled_by_xla_ends_where_the_other_ends(kind):
    compiled = train(
        tf.distribute.get_strategy(),
        jit_compile=True,
        remat=True,
        micro_batches=5,
        **KINDS[kind],
    )
    assert_same(compiled, single_device(kind))


@pytest.mark.slow
def test_the_gradient_norm_is_that_of_the_whole_gradient():
    (tokens, _), rate = data("ar", False), 0.5
    for strategy in (tf.distribute.get_strategy(), mirrored()):
        with strategy.scope():
            keras.utils.set_random_seed(5)
            model = ImageGPT(CONFIG)
            model.compile(keras.optimizers.SGD(rate))
        before = model.get_weights()
        history = model.fit(tokens, batch_size=len(tokens), verbose=0).history
        changes = zip(model.get_weights(), before, strict=True)
        norm = np.sqrt(sum(np.square((new - old) / rate).sum() for new, old in changes))
        assert history["gradient_norm"] == [pytest.approx(norm, rel=1e-4)]
        assert "gradient_norm" not in model.evaluate(tokens, verbose=0, return_dict=True)


def test_the_first_step_of_adam_changes_no_weight_by_more_than_the_rate():
    tokens, _ = data("ar", False)
    keras.utils.set_random_seed(5)
    model = ImageGPT(CONFIG)
    model.token_head.kernel.assign(np.random.default_rng(0).normal(size=(8, 8)))
    model.compile(adam(0.01))
    before = model.get_weights()
    model.fit(tokens, batch_size=len(tokens), verbose=0)
    for new, old in zip(model.get_weights(), before, strict=True):
        assert np.abs(new - old).max() <= 0.01 * 1.001


@pytest.mark.slow
def test_clipping_is_that_of_the_whole_gradient():
    def clipped(rate):
        return keras.optimizers.SGD(rate, global_clipnorm=0.01)

    one = train(tf.distribute.get_strategy(), optimizer=clipped, **KINDS["ar"])
    two = train(mirrored(), optimizer=clipped, **KINDS["ar"])
    free = train(tf.distribute.get_strategy(), optimizer=keras.optimizers.SGD, **KINDS["ar"])
    assert_same(two, one, 1e-6)
    assert np.abs(free["weights"] - one["weights"]).max() > 1e-3


@pytest.mark.slow
def test_a_loss_scale_that_grows_changes_nothing():
    def scaled(rate):
        return keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(rate), initial_scale=4.0, dynamic_growth_steps=3
        )

    plain = train(
        tf.distribute.get_strategy(), optimizer=keras.optimizers.SGD, **KINDS["classifier"]
    )
    for strategy in (tf.distribute.get_strategy(), mirrored()):
        assert_same(train(strategy, optimizer=scaled, **KINDS["classifier"]), plain, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "distance"), [("mixed_bfloat16", 0.02), ("mixed_float16", 0.005)]
)
def test_mixed_precision_ends_near_float32(policy, distance):
    for strategy in (tf.distribute.get_strategy(), mirrored()):
        mixed = train(strategy, dtype=policy, **KINDS["ar"])
        np.testing.assert_allclose(
            mixed["losses"], single_device("ar")["losses"], rtol=0, atol=distance
        )
