import json

import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import InputError
from igpt_keras.training.strategies import check_batch_size, distribute, is_chief, make_strategy


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)


def test_without_anything_to_share_auto_is_one_device():
    assert make_strategy("auto") is make_strategy("none") is tf.distribute.get_strategy()
    assert is_chief(make_strategy("none"))


def test_mirrored_without_gpus_takes_all_logical_cpus():
    strategy = make_strategy("mirrored")
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == len(tf.config.list_logical_devices("CPU")) == 2
    assert is_chief(strategy)


@pytest.mark.parametrize(
    ("name", "environment", "message"),
    [
        ("two", {}, "strategy must be one of auto, none, .*, got 'two'"),
        ("multi-worker", {}, "needs the hosts in TF_CONFIG"),
        ("auto", {"TF_CONFIG": "worker"}, "TF_CONFIG is not a JSON object: worker"),
        ("auto", {"TF_CONFIG": "[1]"}, "TF_CONFIG is not a JSON object"),
        # Asks the network for some time.
        pytest.param("tpu", {}, "strategy=tpu found no TPU", marks=pytest.mark.slow),
        ("auto", {"TPU_NAME": "local"}, "strategy=tpu found no TPU"),
    ],
)
def test_what_is_not_there_is_said(name, environment, message, monkeypatch):
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=message):
        make_strategy(name)


def test_auto_sees_a_cluster(monkeypatch):
    made = []
    monkeypatch.setattr(
        tf.distribute, "MultiWorkerMirroredStrategy", lambda: made.append("multi-worker")
    )
    workers = ["127.0.0.1:1", "127.0.0.1:2"]
    for cluster in ({"worker": workers}, {"chief": workers[:1], "worker": workers[1:]}):
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster}))
        make_strategy("auto")
    assert made == ["multi-worker"] * 2
    # One worker alone is no cluster.
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": workers[:1]}}))
    assert make_strategy("auto") is tf.distribute.get_strategy()


def test_batches_are_shared_evenly():
    two = make_strategy("mirrored")
    check_batch_size(two, 12)
    with pytest.raises(InputError, match="batch_size must be a multiple of the 2 replicas, got 3"):
        check_batch_size(two, 3)
    check_batch_size(make_strategy("none"), 3)


def test_one_host_reads_whole_batches():
    asked = []

    def batches(worker, num_workers):
        asked.append((worker, num_workers))
        return tf.data.Dataset.from_tensors(np.arange(4))

    shared = distribute(batches, make_strategy("mirrored"))
    assert asked == [(0, 1)]
    np.testing.assert_array_equal(next(iter(shared)), np.arange(4))
