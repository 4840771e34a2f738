"""The server, which puts models, services and metrics behind a port."""

import os
import threading
from collections.abc import Collection, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from igpt_keras.errors import InputError
from serving.page import page_files
from serving.server.certificates import Credentials
from serving.server.configuration import (
    DEFAULT_BATCHING,
    PROMETHEUS_PATH,
    BatchingParameters,
    configured_models,
)
from serving.server.lifecycle import ModelManager
from serving.server.listener import Listener, url_host
from serving.server.monitoring import MetricsServer, Monitor
from serving.server.pixels import MAX_PIXELS_IN_FLIGHT, PixelBudget
from serving.server.rest.access import read_origins
from serving.server.rest.api import Api
from serving.server.rest.extensions import Extensions
from serving.server.rest.metrics import metrics_route
from serving.server.rest.page import page_routes
from serving.server.rest.site import Site
from serving.server.row_streams import StateBudget
from serving.server.servable import Servable
from serving.server.services import Services
from serving.transport import MAX_MESSAGE_BYTES, MAX_REQUEST_PIXELS


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
        volumes: Folders by the absolute path that `model_config_file` has for each of them, so
            that a file for a container needs no change: {"/models/igpt": "served"}.
        batching: How requests are batched.
        credentials: TLS credentials, as from `serving.server.certificates.read_credentials`;
            None for no encryption.
        rest_port: The port for TensorFlow Serving's REST API; 0 for a free one, None for no REST.
        rest_host: The network interface for REST; None for `host`.
        cors_origins: Origins such as "https://example.com" whose web pages may use REST; "*" for
            all.
        page: Whether REST's port also serves the page on which people complete images.
        metrics_port: The port for Prometheus metrics over HTTP, which are not encrypted; 0 for a
            free one, None for no metrics. That of REST, with the same host, serves both, as
            TensorFlow Serving's does.
        metrics_host: The network interface for the metrics; None for `host`.
        metrics_path: The path of the metrics' URL.
        max_message_bytes: The largest request and response in bytes.
        max_requests: Most Predict and Classify requests in flight; more are refused.
        max_request_pixels: Most pixels that the images of a request may declare together.
        max_pixels_in_flight: Most pixels of all requests in flight, of which a client never
            takes more than it leaves free; at least twice `max_request_pixels`.
        message_seconds: How long a call may wait for its message before it ends.
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
        volumes: Mapping[str, str | os.PathLike] | None = None,
        batching: BatchingParameters = DEFAULT_BATCHING,
        credentials: Credentials | None = None,
        rest_port: int | None = None,
        rest_host: str | None = None,
        cors_origins: Collection[str] = (),
        page: bool = False,
        metrics_port: int | None = None,
        metrics_host: str | None = None,
        metrics_path: str = PROMETHEUS_PATH,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_requests: int = 256,
        max_request_pixels: int = MAX_REQUEST_PIXELS,
        max_pixels_in_flight: int = MAX_PIXELS_IN_FLIGHT,
        message_seconds: float = 30.0,
        poll_seconds: float = 1.0,
    ):
        _check_port("port", port)
        _check_port("metrics_port", metrics_port or 0)
        _check_rest(rest_port, page)
        origins = read_origins(cors_origins)
        _check_least(1, max_message_bytes=max_message_bytes, max_requests=max_requests)
        _check_positive(message_seconds=message_seconds, poll_seconds=poll_seconds)
        self._host, self._port = host, port
        self._metrics_host = host if metrics_host is None else metrics_host
        self._metrics_port, self._metrics_path = metrics_port, metrics_path
        self._credentials = credentials
        self._poll_seconds = poll_seconds
        self._monitor = Monitor()
        budget = PixelBudget(max_request_pixels, max_pixels_in_flight)
        sources = (directory, model_name, model_config_file, dict(volumes or {}))
        self._manager = _manager(sources, batching, budget, self._monitor)
        self._services = Services(self._manager, max_requests, max_message_bytes)
        self._listener = Listener(
            self._services.conversations(), self._monitor, message_seconds, max_message_bytes
        )
        self._rest_host, self._rest_port = host if rest_host is None else rest_host, rest_port
        self._site: Site | None = None
        if rest_port is not None:
            limits = (message_seconds, max_message_bytes)
            self._site = self._make_site(page, origins, limits)
        self._metrics: MetricsServer | None = None
        self._stopping = threading.Lock()
        self._stopped = threading.Event()
        self.address: str | None = None
        self.metrics_address: str | None = None

    @property
    def rest_address(self) -> str | None:
        """The URL of REST, such as "http://127.0.0.1:8501"; None before `start` and without."""
        return self._site.address if self._site else None

    @property
    def versions(self) -> dict[str, list[int]]:
        """The versions that answer requests, oldest first, by model."""
        return {name: list(versions) for name, versions in self._manager.available().items()}

    @property
    def in_flight(self) -> int:
        """The number of Predict and Classify requests that are being answered."""
        return self._services.in_flight

    def start(self) -> None:
        """Listens, and answers requests in other threads.

        Raises:
            OSError: A port is in use, or cannot be listened on.
        """
        self._start_metrics()
        try:
            port = self._listener.start(self._host, self._port, self._credentials, self._site)
        except OSError:
            self._stop_metrics()
            raise
        self._manager.poll(self._poll_seconds)
        if self._metrics_at_rest:
            self.metrics_address = f"{self.rest_address}{self._metrics_path}"
        self.address = f"{url_host(self._host)}:{port}"

    def stop(self, grace: float = 5.0) -> None:
        """Refuses new requests, and returns when those in flight are done.

        Health checks answer NOT_SERVING from now on.

        Args:
            grace: Time in seconds after which the requests still in flight are canceled.
        """
        with self._stopping:
            self._listener.stop(grace)
            self._services.close()
            self._stop_metrics()
            self._manager.close()
            self._stopped.set()

    def wait(self) -> None:
        """Returns when the server has been stopped."""
        self._stopped.wait()

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    @property
    def _metrics_at_rest(self) -> bool:
        """Whether REST's port has the metrics as well, as TensorFlow Serving's has."""
        metrics, rest = (
            (self._metrics_host, self._metrics_port),
            (self._rest_host, self._rest_port),
        )
        return bool(self._metrics_port) and metrics == rest

    def _make_site(self, page: bool, origins: frozenset[str], limits: tuple[float, int]) -> Site:
        routes = [
            *Api(self._services, self._manager).routes(),
            *Extensions(self._services, self._manager).routes(),
        ]
        if self._metrics_at_rest:
            registry, questions = self._monitor.registry, self._services.questions
            routes.append(metrics_route(registry, self._metrics_path, questions))
        if page:
            routes.extend(page_routes(page_files()))
        assert self._rest_port is not None
        return Site(
            self._rest_host,
            self._rest_port,
            routes,
            self._monitor,
            origins,
            self._credentials,
            *limits,
        )

    def _start_metrics(self) -> None:
        if self._metrics_port is None or self._metrics_at_rest:
            return
        host = url_host(self._metrics_host)
        try:
            self._metrics = MetricsServer(
                self._monitor.registry,
                self._metrics_host,
                self._metrics_port,
                self._metrics_path,
            )
        except OSError as error:
            raise OSError(f"cannot listen on {host}:{self._metrics_port}: {error}") from None
        self.metrics_address = f"http://{host}:{self._metrics.port}{self._metrics_path}"

    def _stop_metrics(self) -> None:
        if self._metrics:
            self._metrics.close()
            self._metrics = None


def _manager(sources, batching, budget, monitor: Monitor) -> ModelManager:
    """Loads the models that `configured_models` finds in its arguments `sources`."""

    def read_configs():
        return configured_models(*sources)

    states = StateBudget()

    def load(name, version, folder):
        def observe_batch(signature, size):
            monitor.observe_batch(name, signature, size)

        return Servable(name, version, folder, batching, budget, states, observe_batch)

    manager = ModelManager(read_configs, load)
    try:
        manager.load_all()
    except BaseException:
        manager.close()
        raise
    monitor.collect(lambda: _metrics(manager, budget))
    return manager


def _metrics(manager: ModelManager, budget: PixelBudget) -> Iterator[Metric]:
    """Reads the metrics of the loaded models and of the pixels in flight."""
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
    yield GaugeMetricFamily(
        "igpt_serving_pixels_in_flight",
        "Pixels that the images of the requests in flight declare.",
        value=budget.in_flight,
    )
    refused = CounterMetricFamily(
        "igpt_serving_refused_for_pixels",
        "Requests refused because their images declare too many pixels.",
        labels=["limit"],
    )
    for limit, requests in budget.refused.items():
        refused.add_metric([limit], requests)
    yield refused


def _check_port(name: str, port: int) -> None:
    # The operating system would take a larger number modulo 65,536.
    if not 0 <= port <= 65_535:
        raise InputError(f"{name} must lie in 0…65535 (0 for a free port), got {port}")


def _check_rest(port: int | None, page: bool) -> None:
    _check_port("rest_port", port or 0)
    if page and port is None:
        raise InputError("page needs rest_port, the port that it is served at")


def _check_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"{name} must be above 0, got {value}")
