"""TensorFlow Serving's configuration files, and certificates.

`models.config`, `batching.config` and `monitoring.config` are protocol buffers in text form.
The Python package of TensorFlow Serving has the message of the first only; the others are
declared here after tensorflow_serving/servables/tensorflow/session_bundle_config.proto and
tensorflow_serving/config/monitoring_config.proto.
"""

import dataclasses
import os
import pathlib
import ssl
from collections.abc import Mapping

import grpc
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from igpt_keras.errors import InputError

ModelConfig = model_server_config_pb2.ModelConfig
Field = descriptor_pb2.FieldDescriptorProto
PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
WRAPPERS = ".google.protobuf."


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """How requests are put together; names and meaning are TensorFlow Serving's.

    Attributes:
        max_batch_size: the most examples of a batch, and of a request.
        batch_timeout_micros: how long a batch waits for more examples, counted from its
            first one or from the end of the batch before, whichever is later.
        max_enqueued_batches: the most full batches that wait, for each signature.
        num_batch_threads: the most batches of a signature that run at the same time.
            TensorFlow Serving has so many for all signatures together.
        thread_pool_name: a prefix for the names of threads.
        allowed_batch_sizes: sizes to which batches are filled up by repeating an example,
            ascending up to the most examples of a batch; any size if empty.
        enable_large_batch_splitting: a request may hold more examples than a batch. It is
            cut, and `max_execution_batch_size` is the most examples of a batch.
        max_execution_batch_size: 0 for `max_batch_size`.
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
        """The most examples that run together."""
        return self.max_execution_batch_size or self.max_batch_size

    @property
    def capacity(self) -> int:
        """The most examples of a signature that wait."""
        return self.max_enqueued_batches * self.batch_size


# Without a file: client libraries put any number of completions into one request.
DEFAULT_BATCHING = BatchingParameters(
    max_batch_size=512, enable_large_batch_splitting=True, max_execution_batch_size=8
)


def _message(name: str, fields: Mapping[str, str | int], repeated: str | None = None):
    """A protocol buffer class; a field's type is that of a scalar, or a message's name."""
    declaration = descriptor_pb2.DescriptorProto(name=name)
    for number, (field, kind) in enumerate(fields.items(), 1):
        declared = declaration.field.add(name=field, number=number)
        declared.label = Field.LABEL_REPEATED if field == repeated else Field.LABEL_OPTIONAL
        if isinstance(kind, str):
            declared.type, declared.type_name = Field.TYPE_MESSAGE, kind
        else:
            declared.type = kind
    return declaration


_POOL = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
_POOL.Add(
    descriptor_pb2.FileDescriptorProto(
        name="igpt_serving_configuration.proto",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
        message_type=[
            _message(
                "BatchingParameters",
                {
                    "max_batch_size": WRAPPERS + "Int64Value",
                    "batch_timeout_micros": WRAPPERS + "Int64Value",
                    "max_enqueued_batches": WRAPPERS + "Int64Value",
                    "num_batch_threads": WRAPPERS + "Int64Value",
                    "thread_pool_name": WRAPPERS + "StringValue",
                    "allowed_batch_sizes": Field.TYPE_INT64,
                    "pad_variable_length_inputs": Field.TYPE_BOOL,
                    "enable_large_batch_splitting": WRAPPERS + "BoolValue",
                    "max_execution_batch_size": WRAPPERS + "Int64Value",
                },
                repeated="allowed_batch_sizes",
            ),
            _message("PrometheusConfig", {"enable": Field.TYPE_BOOL, "path": Field.TYPE_STRING}),
            _message("MonitoringConfig", {"prometheus_config": ".PrometheusConfig"}),
        ],
    )
)


def single_model(name: str, directory: str | os.PathLike) -> ModelConfig:
    """The configuration of one model whose newest version is served."""
    return ModelConfig(name=name, base_path=os.fspath(directory), model_platform="tensorflow")


def read_models(path: str | os.PathLike) -> list[ModelConfig]:
    """The models of a `models.config`.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not a list of models that can be served.
    """
    config = _read(path, model_server_config_pb2.ModelServerConfig)
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
    """The parameters of a `batching.config`; those not in it have their default.

    Raises:
        OSError: the file cannot be read.
        InputError: it cannot be parsed, or a value cannot be used.
    """
    message = _read(path, _message_class("BatchingParameters"))
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
    """Where Prometheus finds the metrics by a `monitoring.config`; None for nowhere.

    Raises:
        OSError: the file cannot be read.
        InputError: it cannot be parsed.
    """
    prometheus = _read(path, _message_class("MonitoringConfig")).prometheus_config
    if not prometheus.enable:
        return None
    return prometheus.path or PROMETHEUS_PATH


def read_credentials(
    certificate: str | os.PathLike,
    key: str | os.PathLike,
    client_ca: str | os.PathLike | None = None,
) -> grpc.ServerCredentials:
    """TLS for a server, from PEM files.

    Args:
        certificate: the server's, and any that it is signed by.
        key: its private key.
        client_ca: if given, clients must have a certificate signed by one of these.

    Raises:
        OSError: a file cannot be read.
        InputError: a file does not hold what it should.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate, key = pathlib.Path(certificate), pathlib.Path(key)
    contents = (key.read_bytes(), certificate.read_bytes())
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise InputError(
            f"{certificate} and {key} are not a certificate and its key: {error}"
        ) from None
    if client_ca is None:
        return grpc.ssl_server_credentials([contents])
    authorities = pathlib.Path(client_ca).read_bytes()
    try:
        context.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise InputError(f"{client_ca} holds no certificates: {error}") from None
    return grpc.ssl_server_credentials([contents], authorities, require_client_auth=True)


def _message_class(name: str):
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def _read(path, message_class):
    """The message that a file holds in text form."""
    try:
        return text_format.Parse(pathlib.Path(path).read_text(encoding="utf-8"), message_class())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be parsed: {error}") from None
