"""What operators see: Prometheus metrics over HTTP, and one line of JSON a request."""

import contextlib
import dataclasses
import http.server
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator

import prometheus_client
from prometheus_client.core import GaugeMetricFamily

logger = logging.getLogger(__name__)

# Seconds: from a small model's class to 512 pixels of a large one.
LATENCY_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclasses.dataclass
class RequestLog:
    """One request, as it is logged and counted.

    Attributes:
        method: the call, such as "Predict".
        peer: the client's address.
        bytes: the size of the request.
        model: its name; empty if there is no such model, so that requests for names made up
            leave no time series behind.
        version: the version that answered.
        signature: its name; empty if there is no such signature.
        examples: B of the batch it brought.
        batch_size: the most examples that any part of it ran with.
        queue_seconds: until its last part began.
        status: the name of the gRPC status.
        error: what a refusal says.
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
    """Counts requests, batches and versions of one server.

    Attributes:
        registry: the metrics.
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
        self._batches.labels(model, signature).observe(size)

    def collect(self, gauges: Callable[[], Iterator[GaugeMetricFamily]]) -> None:
        """Adds what is read at the time of asking."""

        class Collector:
            def collect(self):
                return gauges()

        self.registry.register(Collector())

    @contextlib.contextmanager
    def request(self, log: RequestLog) -> Iterator[None]:
        """Counts and logs a request when it has ended."""
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
    """One line of JSON a record, with the fields of a request where it is one."""

    def format(self, record: logging.LogRecord) -> str:
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
    """Serves metrics over HTTP, at one path, until closed.

    Attributes:
        port: as bound.

    Raises:
        OSError: the port cannot be listened on.
    """

    def __init__(
        self, registry: prometheus_client.CollectorRegistry, host: str, port: int, path: str
    ):
        class Handler(prometheus_client.MetricsHandler.factory(registry)):
            # A client that sends nothing does not hold a thread for long.
            timeout = 10

            def do_GET(self):
                if self.path.partition("?")[0] == path:
                    super().do_GET()
                else:
                    self.send_error(404)

        self._server = http.server.ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
