"""The server, which puts models, services and metrics behind a port."""

import os
import socket
import threading
from collections.abc import Iterator
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client.core import GaugeMetricFamily
from tensorflow_serving.apis import (
    model_service_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)

from igpt_keras.errors import InputError
from serving.server.configuration import (
    DEFAULT_BATCHING,
    PROMETHEUS_PATH,
    BatchingParameters,
    read_models,
    single_model,
)
from serving.server.lifecycle import ModelManager
from serving.server.monitoring import MetricsServer, Monitor
from serving.server.servable import Servable
from serving.server.services import ModelService, PredictionService
from serving.transport import MAX_MESSAGE_BYTES

# Threads for health checks, status and reflection, in addition to those for requests.
SPARE_THREADS = 16
SERVICES = (
    prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
)


class Server:
    """Serves models from directories that `serving.export` wrote.

    Loads the models when it is made; listens from `start` to `stop`, or in a `with` block.

    Args:
        directory: A directory with one folder per version, named by its number. The newest
            version that loads is served. None for the models in `model_config_file`.
        model_name: The model's name in requests.
        host: The network interface to listen on.
        port: The port; 0 for a free one.
        model_config_file: A `models.config` in TensorFlow Serving's format, which is read again
            when it changes.
        batching: How requests are batched.
        credentials: TLS credentials, as from `serving.server.configuration.read_credentials`;
            None for no encryption.
        metrics_port: The port for Prometheus metrics over HTTP on the same interface; 0 for a
            free one, None for no metrics.
        metrics_path: The path of the metrics' URL.
        max_message_bytes: The largest request and response in bytes.
        max_requests: Most Predict and Classify requests in flight; more are refused.
        poll_seconds: The interval in seconds at which to look for new versions.

    Attributes:
        address: "host:port" as bound; None before `start`.
        metrics_address: The URL of the metrics; None before `start` and without metrics.

    Raises:
        FileNotFoundError: The directory does not exist.
        InputError: It holds no version that loads, or an argument is out of range.

    Example:
        ```python
        from serving import Server

        with Server("served", port=8500) as server:
            print(server.address)
            server.wait()
        ```
    """

    def __init__(
        self,
        directory: str | os.PathLike | None = None,
        model_name: str = "igpt",
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        model_config_file: str | os.PathLike | None = None,
        batching: BatchingParameters = DEFAULT_BATCHING,
        credentials: grpc.ServerCredentials | None = None,
        metrics_port: int | None = None,
        metrics_path: str = PROMETHEUS_PATH,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_requests: int = 256,
        poll_seconds: float = 1.0,
    ):
        _check_settings(port, metrics_port, max_message_bytes, max_requests, poll_seconds)
        self._host, self._port = host, port
        self._metrics_port, self._metrics_path = metrics_port, metrics_path
        self._credentials = credentials
        self._poll_seconds = poll_seconds
        self._monitor = Monitor()
        self._manager = _manager(directory, model_name, model_config_file, batching, self._monitor)
        self._health = health.HealthServicer()
        self._server = _grpc_server(max_requests, max_message_bytes)
        self._predictions = PredictionService(self._manager, self._monitor, max_requests)
        self._add_services()
        self._metrics: MetricsServer | None = None
        self._stopping = threading.Lock()
        self.address: str | None = None
        self.metrics_address: str | None = None

    @property
    def versions(self) -> dict[str, list[int]]:
        """The versions that answer requests, oldest first, by model."""
        return {name: list(versions) for name, versions in self._manager.available().items()}

    @property
    def in_flight(self) -> int:
        """The number of Predict and Classify requests that are being answered."""
        return self._predictions.in_flight

    def start(self) -> None:
        """Listens, and answers requests in other threads.

        Raises:
            OSError: A port is in use, or cannot be listened on.
        """
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            _check_free(self._host, self._port)
            if self._credentials is None:
                bound_port = self._server.add_insecure_port(f"{host}:{self._port}")
            else:
                bound_port = self._server.add_secure_port(f"{host}:{self._port}", self._credentials)
        except (OSError, RuntimeError) as error:
            raise OSError(f"cannot listen on {host}:{self._port}: {error}") from None
        self._start_metrics(host)
        self._server.start()
        self._manager.poll(self._poll_seconds)
        self._set_health(health_pb2.HealthCheckResponse.SERVING)
        self.address = f"{host}:{bound_port}"

    def stop(self, grace: float = 5.0) -> None:
        """Refuses new requests, and returns when those in flight are done.

        Health checks answer NOT_SERVING from now on.

        Args:
            grace: Time in seconds after which the requests still in flight are canceled.
        """
        with self._stopping:
            self._health.enter_graceful_shutdown()
            self._server.stop(grace).wait()
            if self._metrics:
                self._metrics.close()
                self._metrics = None
            self._manager.close()

    def wait(self) -> None:
        """Returns when the server has been stopped."""
        self._server.wait_for_termination()

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    def _add_services(self) -> None:
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            self._predictions, self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(self._manager, self._monitor), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        reflection.enable_server_reflection(
            [*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server
        )

    def _set_health(self, status) -> None:
        for service in ("", *SERVICES):
            self._health.set(service, status)

    def _start_metrics(self, host: str) -> None:
        if self._metrics_port is None:
            return
        try:
            self._metrics = MetricsServer(
                self._monitor.registry, self._host, self._metrics_port, self._metrics_path
            )
        except OSError as error:
            raise OSError(f"cannot listen on {host}:{self._metrics_port}: {error}") from None
        self.metrics_address = f"http://{host}:{self._metrics.port}{self._metrics_path}"


def _manager(directory, model_name, model_config_file, batching, monitor) -> ModelManager:
    """Loads the models."""
    if (directory is None) == (model_config_file is None):
        raise InputError(
            "one of directory and model_config_file must be given, "
            f"got {directory} and {model_config_file}"
        )

    def read_configs():
        if directory is None:
            return read_models(model_config_file)
        return [single_model(model_name, directory)]

    def load(name, version, folder):
        def observe_batch(signature, size):
            monitor.observe_batch(name, signature, size)

        return Servable(name, version, folder, batching, observe_batch)

    manager = ModelManager(read_configs, load)
    try:
        manager.load_all()
    except BaseException:
        manager.close()
        raise
    monitor.collect(lambda: _gauges(manager))
    return manager


def _gauges(manager: ModelManager) -> Iterator[GaugeMetricFamily]:
    """Reads the metrics of the loaded models."""
    loaded = GaugeMetricFamily(
        "igpt_serving_loaded_version",
        "1 for every version that answers requests.",
        labels=["model", "version"],
    )
    queued = GaugeMetricFamily(
        "igpt_serving_queued_examples",
        "Examples that wait to run.",
        labels=["model", "version", "signature"],
    )
    for name, servables in manager.available().items():
        for number, servable in servables.items():
            loaded.add_metric([name, str(number)], 1)
            for signature, examples in servable.queued().items():
                queued.add_metric([name, str(number), signature], examples)
    yield loaded
    yield queued


def _check_settings(port, metrics_port, max_message_bytes, max_requests, poll_seconds) -> None:
    for name, value in (("port", port), ("metrics_port", metrics_port or 0)):
        # The operating system would take a larger number modulo 65,536.
        if not 0 <= value <= 65_535:
            raise InputError(f"{name} must lie in 0…65535 (0 for a free port), got {value}")
    for name, value in (("max_message_bytes", max_message_bytes), ("max_requests", max_requests)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    if not poll_seconds > 0:
        raise InputError(f"poll_seconds must be above 0, got {poll_seconds}")


def _grpc_server(max_requests: int, max_message_bytes: int) -> grpc.Server:
    return grpc.server(
        futures.ThreadPoolExecutor(max_requests + SPARE_THREADS, "request"),
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # A port that another server listens on is an error, not shared.
            ("grpc.so_reuseport", 0),
        ],
    )


def _check_free(host: str, port: int) -> None:
    """Raises the system's error for a port that cannot be listened on, which gRPC only logs."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.create_server(address[:2], family=family):
        pass
