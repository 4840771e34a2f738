import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import contextlib
import io
import pathlib
from unittest import mock

import keras
import numpy as np
import pytest

import igpt_keras
from igpt_keras import cli
from tests.interpreter import Interpreter

# Two of them, so that strategies have something to share out.
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


# The libraries' own objects stay; collecting garbage need not visit them, nor so often.
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 20, 50)


def pytest_xdist_auto_num_workers():
    """Returns one more than there are cores, because tests wait for servers and processes."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="module", autouse=True)
def _graphs_are_freed():
    """A process slows down with the graphs that wait, in reference cycles, to be collected."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def config():
    return igpt_keras.ImageGPTConfig(
        image_size=4, vocabulary_size=8, hidden_dim=16, num_layers=2, num_heads=2
    )


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(0, 8, (6, 16)).astype(np.int32)


@pytest.fixture
def palette():
    return igpt_keras.ColorPalette(np.random.default_rng(1).uniform(-1, 1, (8, 3)))


@pytest.fixture(scope="session")
def randomized():
    """Gives a model weights far from their initial values: heads start at zero."""

    def randomize(model, seed=0):
        generator = np.random.default_rng(seed)
        model.set_weights([generator.normal(0, 0.3, w.shape) for w in model.get_weights()])
        return model

    return randomize


@pytest.fixture(scope="session")
def igpt():
    """Runs the command line; returns its exit status, stdout and stderr."""

    def run(*arguments):
        output, errors = io.StringIO(), io.StringIO()
        with (
            mock.patch("sys.argv", ["igpt", *map(str, arguments)]),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
            # On a busy machine nothing else is said.
            mock.patch("igpt_keras.cli.slow_stages.SECONDS", 3600.0),
        ):
            status = cli.run()
        return status, output.getvalue(), errors.getvalue()

    return run


@pytest.fixture(scope="session")
def jax_interpreter():
    """Runs programs with Keras on JAX, in a process that cannot import TensorFlow."""
    pytest.importorskip("jax")
    with Interpreter.on_jax() as jax:
        yield jax
