"""Routes that TensorFlow Serving does not have: the models, and completions row by row."""

import asyncio
import contextlib
import json
import threading
from concurrent import futures

from serving.server.errors import RequestError, cancelled
from serving.server.lifecycle import ModelManager
from serving.server.rest.events import EVENT_STREAM, error_text, event_text, rows_request
from serving.server.rest.exchanges import Exchange
from serving.server.rest.paths import MODEL, VERSION, expression, model_spec
from serving.server.rest.routes import Route
from serving.server.servable import Servable
from serving.server.services import Services
from serving.server.tensors import SERVING_DEFAULT

# TensorFlow lists the operation that initializes a model among its signatures.
INTERNAL = "__"


class Extensions:
    """What a page needs.

    Args:
        services: Answer the requests.
        manager: The models.
    """

    def __init__(self, services: Services, manager: ModelManager):
        self._services, self._manager = services, manager

    def routes(self) -> list[Route]:
        """Returns the routes."""
        stream_path = expression(MODEL + VERSION + ":(?-i:stream)")
        return [
            Route("POST", stream_path, "Stream", self.stream),
            Route("GET", expression("/v1/models"), "GetModels", self.models),
        ]

    async def models(self, exchange: Exchange) -> None:
        """Answers which models and versions there are."""
        models = [_entry(servable, labels) for servable, labels in self._manager.offered()]
        await exchange.reply(json.dumps({"models": models}, indent=1).encode() + b"\n")

    async def stream(self, exchange: Exchange) -> None:
        """Completes an image row by row, as fast as the client reads."""
        spec = model_spec(exchange.match)
        workers = self._services.workers
        # A body that would be refused afterwards is not read.
        workers.check_free()
        body = await exchange.receive()
        sender = _Sender(exchange)

        def work() -> None:
            request = rows_request(body)
            events = self._services.stream(spec, request, exchange.call, exchange.log)
            with contextlib.closing(events):
                for event in events:
                    sender.send(event_text(event, exchange.log))

        try:
            await exchange.run(workers, work)
        except RequestError as error:
            if exchange.response is None or sender.failed:
                raise
            exchange.log.status, exchange.log.error = error.code.name, str(error)
            await exchange.send(error_text(error))
        await exchange.finish()


class _Sender:
    """Sends parts of an answer from another thread than that of the event loop.

    Attributes:
        failed: Whether the client does not take any more.
    """

    def __init__(self, exchange: Exchange):
        self._exchange = exchange
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._sending: futures.Future | None = None
        self.failed = False
        exchange.call.when_abandoned(self._stop)

    def send(self, part: bytes) -> None:
        """Returns when the client reads fast enough for another part.

        Raises:
            RequestError: It has gone, or does not read.
        """
        with self._lock:
            if self._exchange.call.abandoned:
                raise cancelled()
            self._sending = asyncio.run_coroutine_threadsafe(self._deliver(part), self._loop)
        try:
            self._sending.result()
        except futures.CancelledError:
            raise cancelled() from None

    async def _deliver(self, part: bytes) -> None:
        try:
            if self._exchange.response is None:
                await self._exchange.begin(EVENT_STREAM)
            await self._exchange.send(part)
        except BaseException:
            self.failed = True
            raise

    def _stop(self) -> None:
        with self._lock:
            if self._sending is not None:
                self._sending.cancel()


def _entry(servable: Servable, labels: list[str]) -> dict:
    names = sorted(servable.signatures)
    about = servable.description
    return {
        "name": servable.name,
        "version": servable.version,
        "labels": labels,
        "signatures": [
            name for name in names if name != SERVING_DEFAULT and not name.startswith(INTERNAL)
        ],
        "streams": servable.streams,
        "image_size": about.image_size,
        "description": about.description,
        "class_names": list(about.class_names),
        "label_names": list(about.label_names),
    }
