"""Distribution strategies: one device, several, several hosts, or a TPU."""

import contextlib
import functools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator

import tensorflow as tf

from igpt_keras.errors import InputError

STRATEGIES = ("auto", "none", "mirrored", "multi-worker", "tpu")


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Returns a `tf.distribute` strategy, in whose scope models are made.

    Call it before other TensorFlow functions: devices are initialized once.

    Args:
        name: One of

            - "none": the first device.
            - "mirrored": all GPUs of this host, or, without GPUs, all logical CPU devices.
            - "multi-worker": all hosts in `TF_CONFIG`.
            - "tpu": the TPU that `TPU_NAME` names, or that of this host.
            - "auto": "multi-worker" if `TF_CONFIG` names several workers, else "tpu" if
              `TPU_NAME` is set, else "mirrored" with more than one GPU, else "none".

    Returns:
        The strategy.

    Raises:
        InputError: The name is unknown, or the hosts or the TPU cannot be found.

    Example:
        ```python
        import igpt_keras
        from igpt_keras.training.strategies import make_strategy

        with make_strategy("auto").scope():
            model = igpt_keras.ImageGPT(config)
        ```
    """
    if name not in STRATEGIES:
        raise InputError(f"strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")
    name = strategy_name(name)
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return _mirrored_strategy()
    if name == "multi-worker":
        if not _workers():
            raise InputError(
                "strategy=multi-worker needs the hosts in TF_CONFIG, such as "
                '{"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}}'
            )
        with _own_sigterm():
            return tf.distribute.MultiWorkerMirroredStrategy()
    return _tpu_strategy()


def strategy_name(name: str) -> str:
    """Returns the name of a strategy; for "auto" that of the one that the environment provides."""
    return _from_environment() if name == "auto" else name


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Takes SIGTERM back from TensorFlow, whose workers note it and go on."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGTERM, before)


def _from_environment() -> str:
    if len(_workers()) > 1:
        return "multi-worker"
    if os.environ.get("TPU_NAME"):
        return "tpu"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "none"


def _workers() -> list[str]:
    """The workers in `TF_CONFIG`, the chief first."""
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        cluster = json.loads(text).get("cluster", {})
    except (json.JSONDecodeError, AttributeError):
        raise InputError(f"TF_CONFIG is not a JSON object: {text}") from None
    return [*cluster.get("chief", []), *cluster.get("worker", [])]


@functools.cache
def _mirrored_strategy() -> tf.distribute.MirroredStrategy:
    """Is cached: collectives of two strategies in one process interfere with each other."""
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _tpu_strategy() -> tf.distribute.TPUStrategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(
            os.environ.get("TPU_NAME", "local")
        )
    except (ValueError, tf.errors.OpError) as error:
        raise InputError(f"strategy=tpu found no TPU; set TPU_NAME to its name: {error}") from error
    return tf.distribute.TPUStrategy(resolver)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process writes files: the only worker, or the first of several."""
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return True
    if "chief" in resolver.cluster_spec().as_dict():
        return resolver.task_type == "chief"
    return resolver.task_id == 0


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns once every worker has called this; raises TensorFlow's error where one has gone."""
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        with strategy.scope():
            ones = strategy.run(lambda: tf.ones([]))
            strategy.reduce(tf.distribute.ReduceOp.SUM, ones, axis=None)


def num_hosts(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of hosts that a strategy trains on."""
    is_multi = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return max(len(_workers()), 1) if is_multi else 1


def check_batch_size(strategy: tf.distribute.Strategy, batch_size: int) -> None:
    """Raises `InputError` where the replicas cannot share a global batch evenly."""
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise InputError(
            f"batch_size must be a multiple of the {replicas} replicas, got {batch_size}"
        )


def distribute(
    batches: Callable[[int, int], tf.data.Dataset], strategy: tf.distribute.Strategy
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Returns batches for `fit`, of which every worker reads only its own share.

    Args:
        batches: Function from a worker's index and the number of workers to its equal share of
            every global batch, such as `TrainingStream.dataset`.
        strategy: The strategy of the model.

    Returns:
        Batches that Keras or `tf.distribute` splits among the replicas.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        # Keras splits these among the replicas.
        return batches(0, 1)

    def of_worker(context):
        workers = context.num_input_pipelines
        share = batches(context.input_pipeline_id, workers)
        replicas = strategy.num_replicas_in_sync // workers
        size = tf.nest.flatten(share.element_spec)[0].shape[0]
        return share.rebatch(size // replicas, drop_remainder=True)

    return strategy.distribute_datasets_from_function(of_worker)
