"""Prometheus metrics over HTTP, and one line of JSON per request in the log."""

import contextlib
import dataclasses
import http.server
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import prometheus_client
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)

# In seconds, from classifying by a small model to sampling 512 pixels from a large one.
LATENCY_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclasses.dataclass
class RequestLog:
    """The log entry of one request.

    Attributes:
        method: The gRPC method, such as "Predict".
        peer: The client's address.
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
    bytes: int
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

    def observe_batch(self, model: str, signature: str, size: int) -> None:
        """Counts a batch."""
        self._batches.labels(model, signature).observe(size)

    def collect(self, gauges: Callable[[], Iterator[GaugeMetricFamily]]) -> None:
        """Adds metrics whose values are read at each scrape."""

        class Gauges(Collector):
            def collect(self):
                return gauges()

        self.registry.register(Gauges())

    @contextlib.contextmanager
    def request(self, log: RequestLog) -> Iterator[None]:
        """Counts and logs a request when the context ends."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self._requests.labels(log.method, log.model, log.signature, log.status).inc()
            self._latency.labels(log.method, log.model, log.signature).observe(seconds)
            fields = {**dataclasses.asdict(log), "seconds": seconds}
            logger.info("request", extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON, with the fields of a request if it has any."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


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

        handler: Any = Handler
        self._server = http.server.ThreadingHTTPServer((host, port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
