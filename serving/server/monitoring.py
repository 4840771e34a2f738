"""Prometheus metrics over HTTP, and an entry in the log for every request."""

import collections
import contextlib
import dataclasses
import http.server
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import prometheus_client
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from serving.server.log import DROPPED_LINES

logger = logging.getLogger(__name__)

# In seconds, from classifying by a small model to sampling 512 pixels from a large one.
LATENCY_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
# TensorFlow Serving's, in microseconds (tensorflow_serving/servables/tensorflow/util.cc).
TENSORFLOW_SERVING_BUCKETS = tuple(10 * 1.8**power for power in range(33))
INFERENCE_METHODS = ("Predict", "Classify")
MAX_METRICS_CONNECTIONS = 16
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclasses.dataclass
class RequestLog:
    """The log entry of one request.

    Attributes:
        method: The gRPC method, such as "Predict".
        peer: The client's address.
        entrypoint: "GRPC" or "REST".
        bytes: The size of the request.
        model: The model's name; empty if there is none, so that requests for made-up names
            leave no time series behind.
        version: The version that answered.
        signature: The signature's name; empty if there is none.
        examples: The number of examples in the request.
        batch_size: The size of the largest batch that any of them ran in.
        queue_seconds: The time until the last of them began to run.
        status: The name of the gRPC status.
        error: The message of a refusal.
    """

    method: str
    peer: str
    entrypoint: str = "GRPC"
    bytes: int = 0
    model: str = ""
    version: int = 0
    signature: str = ""
    examples: int = 0
    batch_size: int = 0
    queue_seconds: float = 0.0
    status: str = "OK"
    error: str = ""


class Monitor:
    """Counts the requests and batches of one server.

    Attributes:
        registry: The Prometheus metrics.
    """

    def __init__(self):
        self.registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        self._requests = prometheus_client.Counter(
            "igpt_serving_requests",
            "Requests answered.",
            ["method", "model", "signature", "status"],
            registry=self.registry,
        )
        self._latency = prometheus_client.Histogram(
            "igpt_serving_request_seconds",
            "Time from a request's arrival to its answer.",
            ["method", "model", "signature"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._batches = prometheus_client.Histogram(
            "igpt_serving_batch_examples",
            "Examples that ran together.",
            ["model", "signature"],
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )

        self._tensorflow_serving_latency = prometheus_client.Histogram(
            ":tensorflow:serving:request_latency",
            "TensorFlow Serving's name for the time of a request, in microseconds.",
            ["model_name", "API", "entrypoint"],
            buckets=TENSORFLOW_SERVING_BUCKETS,
            registry=self.registry,
        )
        self.collect(self._tensorflow_serving_count)
        self.registry.register(DROPPED_LINES)

    def observe_batch(self, model: str, signature: str, size: int) -> None:
        """Counts a batch."""
        self._batches.labels(model, signature).observe(size)

    def collect(self, metrics: Callable[[], Iterator[Metric]]) -> None:
        """Adds metrics whose values are read at each scrape."""

        class Metrics(Collector):
            def collect(self):
                return metrics()

        self.registry.register(Metrics())

    def _tensorflow_serving_count(self) -> Iterator[Metric]:
        """Sums up requests under TensorFlow Serving's name, which does not end in `_total`."""
        counts: dict[tuple[str, str], float] = collections.defaultdict(float)
        for metric in self._requests.collect():
            for sample in metric.samples:
                labels = sample.labels
                if sample.name.endswith("_total") and labels["method"] in INFERENCE_METHODS:
                    counts[labels["model"], labels["status"]] += sample.value
        name = ":tensorflow:serving:request_count"
        metric = Metric(name, "TensorFlow Serving's name for the number of requests.", "unknown")
        for (model, status), value in counts.items():
            metric.add_sample(name, {"model_name": model, "status": status}, value)
        yield metric

    @contextlib.contextmanager
    def call(self, log: RequestLog, *, logged: bool = True) -> Iterator[None]:
        """Counts a call when the context ends, and logs it; one that ends well if `logged`."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self._requests.labels(log.method, log.model, log.signature, log.status).inc()
            self._latency.labels(log.method, log.model, log.signature).observe(seconds)
            if log.status == "OK" and log.method in INFERENCE_METHODS:
                labels = log.model, log.method, log.entrypoint
                self._tensorflow_serving_latency.labels(*labels).observe(seconds * 1e6)
            if logged or log.status != "OK":
                fields = {**dataclasses.asdict(log), "seconds": seconds}
                logger.info("request", extra={"fields": fields})


class MetricsServer:
    """Serves metrics over HTTP at one path, in a thread of its own.

    Args:
        registry: The metrics.
        host: The interface to listen on.
        port: The port; 0 for a free one.
        path: The path of the metrics' URL.

    Attributes:
        port: The port as bound.

    Raises:
        OSError: The port cannot be listened on.
    """

    def __init__(
        self, registry: prometheus_client.CollectorRegistry, host: str, port: int, path: str
    ):
        class Handler(prometheus_client.MetricsHandler.factory(registry)):
            # A client that sends nothing must not hold a thread for long.
            timeout = 10

            def do_GET(self):
                if self.path.partition("?")[0] == path:
                    super().do_GET()
                else:
                    self.send_error(404)

        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        handler: Any = Handler
        self._server = type("HTTPServer", (_BoundedHTTPServer,), {"address_family": family})(
            address[:2], handler
        )
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _BoundedHTTPServer(http.server.ThreadingHTTPServer):
    """Closes the connections for which no thread is left."""

    daemon_threads = True

    def __init__(self, *arguments):
        self._places = threading.BoundedSemaphore(MAX_METRICS_CONNECTIONS)
        super().__init__(*arguments)

    def process_request(self, request, client_address):
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()
