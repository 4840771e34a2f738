"""TensorFlow Serving's configuration files.

`models.config`, `batching.config` and `monitoring.config` are protocol buffers in text form.
tensorflow-serving-api has the message of the first only. The others are declared here after
tensorflow_serving/servables/tensorflow/session_bundle_config.proto and
tensorflow_serving/config/monitoring_config.proto.
"""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

import dataclasses
import os
import pathlib
from collections.abc import Mapping

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from igpt_keras.errors import InputError
from serving.messages import message_classes

PROMETHEUS_PATH = "/monitoring/prometheus/metrics"


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """How requests are batched; names and meaning are TensorFlow Serving's.

    Args:
        max_batch_size: Most examples in a batch, and in a request.
        batch_timeout_micros: Time in microseconds that a batch waits for more examples, from
            its first one or from the end of the batch before, whichever is later.
        max_enqueued_batches: Most full batches that wait, for each signature.
        num_batch_threads: Most batches of a signature that run at the same time. TensorFlow
            Serving shares these threads among all signatures.
        thread_pool_name: Prefix of the threads' names.
        allowed_batch_sizes: Sizes to which batches are padded by repeating an example, in
            ascending order up to the most examples in a batch; empty allows any size.
        enable_large_batch_splitting: Whether a request may hold more examples than a batch. It
            is split, and `max_execution_batch_size` is the most examples in a batch.
        max_execution_batch_size: See there; 0 stands for `max_batch_size`.

    Raises:
        InputError: A value is out of range, or values contradict each other.
    """

    max_batch_size: int = 8
    batch_timeout_micros: int = 10_000
    max_enqueued_batches: int = 64
    num_batch_threads: int = 1
    thread_pool_name: str = "batch"
    allowed_batch_sizes: tuple[int, ...] = ()
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0

    def __post_init__(self):
        for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("batch_timeout_micros", "max_execution_batch_size"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.max_execution_batch_size and not self.enable_large_batch_splitting:
            raise InputError("max_execution_batch_size needs enable_large_batch_splitting")
        if self.max_execution_batch_size > self.max_batch_size:
            raise InputError(
                f"max_execution_batch_size must be at most max_batch_size ({self.max_batch_size}), "
                f"got {self.max_execution_batch_size}"
            )
        sizes = self.allowed_batch_sizes
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != self.batch_size):
            raise InputError(
                f"allowed_batch_sizes must ascend up to {self.batch_size}, got {list(sizes)}"
            )

    @property
    def batch_size(self) -> int:
        """Most examples that run together."""
        return self.max_execution_batch_size or self.max_batch_size

    @property
    def capacity(self) -> int:
        """Most examples of a signature that wait."""
        return self.max_enqueued_batches * self.batch_size


# Without a file. Client libraries put any number of completions into one request.
DEFAULT_BATCHING = BatchingParameters(
    max_batch_size=512, enable_large_batch_splitting=True, max_execution_batch_size=8
)


_messages = message_classes(
    {
        "Int64Value": ["int64 value = 1"],
        "StringValue": ["string value = 1"],
        "BoolValue": ["bool value = 1"],
        "BatchingParameters": [
            "Int64Value max_batch_size = 1",
            "Int64Value batch_timeout_micros = 2",
            "Int64Value max_enqueued_batches = 3",
            "Int64Value num_batch_threads = 4",
            "StringValue thread_pool_name = 5",
            "repeated int64 allowed_batch_sizes = 6",
            "bool pad_variable_length_inputs = 7",
            "BoolValue enable_large_batch_splitting = 8",
            "Int64Value max_execution_batch_size = 9",
        ],
        "PrometheusConfig": ["bool enable = 1", "string path = 2"],
        "MonitoringConfig": ["PrometheusConfig prometheus_config = 1"],
    }
)


def configured_models(
    directory: str | os.PathLike | None,
    name: str,
    path: str | os.PathLike | None,
    volumes: Mapping[str, str | os.PathLike],
) -> list[ModelConfig]:
    """Returns the configuration of the model in a directory, or of those in a `models.config`.

    Args:
        directory: The directory of the model's versions, of which the newest is served; None for
            the models in the file.
        name: The model's name.
        path: The `models.config`; None for the model in the directory.
        volumes: Folders by the absolute path that the file has for each of them, such as
            {"/models/igpt": "served"}.

    Raises:
        OSError: The file cannot be read.
        InputError: It does not hold a list of models that can be served, or the arguments
            contradict each other.
    """
    relative = [target for target in volumes if not target.startswith("/")]
    if relative:
        raise InputError(f"volumes must be named by absolute paths, got {relative}")
    if path is not None and directory is None:
        models = read_models(path)
        for model in models:
            model.base_path = _mounted(model.base_path, volumes)
        return models
    if directory is None or path is not None:
        raise InputError(
            f"one of directory and model_config_file must be given, got {directory} and {path}"
        )
    if volumes:
        raise InputError(f"volumes need model_config_file, got {dict(volumes)}")
    return [ModelConfig(name=name, base_path=os.fspath(directory), model_platform="tensorflow")]


def _mounted(base_path: str, volumes: Mapping[str, str | os.PathLike]) -> str:
    """Returns where a path lies outside of a container that has these volumes."""
    path = pathlib.PurePosixPath(base_path)
    inside = [target for target in volumes if path.is_relative_to(target)]
    if not inside:
        return base_path
    target = max(inside, key=lambda target: len(pathlib.PurePosixPath(target).parts))
    return os.fspath(pathlib.Path(volumes[target], path.relative_to(target)))


def write_models(path: str | os.PathLike, directories: Mapping[str, str | os.PathLike]) -> None:
    """Writes a `models.config`.

    Args:
        path: The file to write.
        directories: The directory of each model's versions by the model's name.
    """
    config = ModelServerConfig()
    for name, directory in directories.items():
        config.model_config_list.config.add(
            name=name, base_path=os.path.abspath(directory), model_platform="tensorflow"
        )
    text = text_format.MessageToString(config, as_utf8=True)
    pathlib.Path(path).write_text(text, encoding="utf-8")


def read_models(path: str | os.PathLike) -> list[ModelConfig]:
    """Reads the models from a `models.config`.

    Raises:
        OSError: The file cannot be read.
        InputError: It does not hold a list of models that can be served.
    """
    config = _read(path, ModelServerConfig)
    models = list(config.model_config_list.config)
    if not models:
        raise InputError(f"{path} must hold a model_config_list with at least one config")
    names = [model.name for model in models]
    if len(set(names)) < len(names) or not all(names):
        raise InputError(f"{path}: models must have names that differ, got {names}")
    for model in models:
        _check_model(model, path)
    return models


def _check_model(model: ModelConfig, path) -> None:
    if not model.base_path:
        raise InputError(f"{path}: model {model.name} has no base_path")
    if model.model_platform not in ("", "tensorflow"):
        raise InputError(
            f"{path}: model_platform must be tensorflow, got {model.model_platform} "
            f"for model {model.name}"
        )
    policy = model.model_version_policy
    if policy.WhichOneof("policy_choice") == "specific" and not policy.specific.versions:
        raise InputError(f"{path}: model {model.name} names no specific versions")


def read_batching(path: str | os.PathLike) -> BatchingParameters:
    """Reads a `batching.config`; parameters that it leaves out keep their defaults.

    Raises:
        OSError: The file cannot be read.
        InputError: It cannot be parsed, or a value is out of range.
    """
    message = _read(path, _messages.BatchingParameters)
    if message.pad_variable_length_inputs:
        raise InputError(f"{path}: pad_variable_length_inputs is not supported")
    values = {
        field.name: value.value if field.message_type else value
        for field, value in message.ListFields()
    }
    if "allowed_batch_sizes" in values:
        values["allowed_batch_sizes"] = tuple(values["allowed_batch_sizes"])
    try:
        return BatchingParameters(**values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_monitoring(path: str | os.PathLike) -> str | None:
    """Reads the URL path of the Prometheus metrics from a `monitoring.config`.

    Returns:
        The path; None if the file does not enable metrics.

    Raises:
        OSError: The file cannot be read.
        InputError: It cannot be parsed.
    """
    prometheus = _read(path, _messages.MonitoringConfig).prometheus_config
    if not prometheus.enable:
        return None
    return prometheus.path or PROMETHEUS_PATH


def _read(path, message_class):
    """Reads a message in text form."""
    try:
        return text_format.Parse(pathlib.Path(path).read_text(encoding="utf-8"), message_class())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be parsed: {error}") from None
