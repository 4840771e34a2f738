"""Prometheus metrics on REST's port, where TensorFlow Serving has them."""

import re

import prometheus_client
from prometheus_client.exposition import choose_encoder

from serving.server.calls import Workers
from serving.server.rest.exchanges import Exchange
from serving.server.rest.routes import Route


def metrics_route(
    registry: prometheus_client.CollectorRegistry, path: str, workers: Workers
) -> Route:
    """Returns the route of the metrics.

    Args:
        registry: The metrics.
        path: The path of their URL.
        workers: Threads to collect them.
    """

    async def answer(exchange: Exchange) -> None:
        encode, content_type = choose_encoder(exchange.header("Accept"))
        body = await exchange.run(workers, lambda: encode(registry))
        await exchange.reply(body, content_type=content_type)

    expression = re.compile(re.escape(path) + r"(?:\?.*)?")
    return Route("GET", expression, "Metrics", answer, logged=False)
