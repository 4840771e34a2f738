"""Where a model trains: on one device, several, several hosts, or a TPU."""

import functools
import json
import os
from collections.abc import Callable

import tensorflow as tf

from igpt_keras.errors import InputError

STRATEGIES = ("auto", "none", "mirrored", "multi-worker", "tpu")


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """A `tf.distribute` strategy, under whose scope models are made.

    Call it before anything else of TensorFlow: devices are set up once.

    Args:
        name: "none", the first device; "mirrored", all GPUs of this host (without any, all
            logical CPU devices); "multi-worker", all hosts that `TF_CONFIG` names; "tpu", the
            one that `TPU_NAME` names, or this host's; "auto", the first of multi-worker, tpu
            and mirrored that the environment speaks of or more than one GPU is there for,
            else none.

    Raises:
        InputError: an unknown name, or hosts or a TPU that are not there.
    """
    if name not in STRATEGIES:
        raise InputError(f"strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")
    if name == "auto":
        name = _from_environment()
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
        return tf.distribute.MultiWorkerMirroredStrategy()
    return _tpu_strategy()


def _from_environment() -> str:
    if len(_workers()) > 1:
        return "multi-worker"
    if os.environ.get("TPU_NAME"):
        return "tpu"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "none"


def _workers() -> list[str]:
    """The workers, a chief first, that `TF_CONFIG` names."""
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        cluster = json.loads(text).get("cluster", {})
    except (json.JSONDecodeError, AttributeError):
        raise InputError(f"TF_CONFIG is not a JSON object: {text}") from None
    return [*cluster.get("chief", []), *cluster.get("worker", [])]


@functools.cache
def _mirrored_strategy() -> tf.distribute.MirroredStrategy:
    """The same at every call: collectives of two strategies in one process get mixed up."""
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _tpu_strategy() -> tf.distribute.TPUStrategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(
            os.environ.get("TPU_NAME", "local")
        )
    except (ValueError, tf.errors.OpError) as error:
        raise InputError(f"strategy=tpu found no TPU, set TPU_NAME to its name: {error}") from error
    return tf.distribute.TPUStrategy(resolver)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes files: one alone, or the first of several."""
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return True
    if "chief" in resolver.cluster_spec().as_dict():
        return resolver.task_type == "chief"
    return resolver.task_id == 0


def check_batch_size(strategy: tf.distribute.Strategy, batch_size: int) -> None:
    """Raises `InputError` for a global batch that cannot be shared out evenly."""
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise InputError(
            f"batch_size must be a multiple of the {replicas} replicas, got {batch_size}"
        )


def distribute(
    batches: Callable[[int, int], tf.data.Dataset], strategy: tf.distribute.Strategy
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Batches for `fit`, of which every worker reads its own share alone.

    Args:
        batches: the worker's index and the number of workers to its equal share of every
            global batch, as `TrainingStream.dataset` gives it.
        strategy: that of the model.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        # Keras shares these out among the replicas.
        return batches(0, 1)

    def of_worker(context):
        workers = context.num_input_pipelines
        share = batches(context.input_pipeline_id, workers)
        replicas = strategy.num_replicas_in_sync // workers
        size = tf.nest.flatten(share.element_spec)[0].shape[0]
        return share.rebatch(size // replicas, drop_remainder=True)

    return strategy.distribute_datasets_from_function(of_worker)
