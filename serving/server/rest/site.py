"""HTTP behind a port, on the event loop of gRPC."""

import asyncio
import ipaddress
import logging
from collections.abc import Collection, Sequence

import grpc
from aiohttp import web

from serving.server.calls import READING_SECONDS, Silence
from serving.server.errors import RequestError, invalid
from serving.server.listener import url_host
from serving.server.monitoring import Monitor, RequestLog
from serving.server.rest.access import PREFLIGHT, Access
from serving.server.rest.exchanges import Exchange
from serving.server.rest.json_writing import error_json
from serving.server.rest.paths import expression
from serving.server.rest.routes import Route
from serving.server.rest.statuses import HTTP_STATUSES

# TensorFlow Serving takes other paths for none of its own.
API_PATH = expression(r"/v1/.*")
ANY_PATH = expression(r".*")
logger = logging.getLogger(__name__)


class Site:
    """Answers the requests of a port.

    Args:
        host: The network interface.
        port: The port; 0 for a free one.
        routes: What is answered; the first that fits.
        monitor: Counts and logs the requests.
        cors_origins: Origins whose pages may send requests; "*" for all.
        message_seconds: How long a client has to send a request.
        max_message_bytes: The largest body.

    Attributes:
        address: The URL as bound, such as "http://127.0.0.1:8501"; None before `start`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        routes: Sequence[Route],
        monitor: Monitor,
        cors_origins: Collection[str],
        message_seconds: float,
        max_message_bytes: int,
    ):
        self._host, self._port = host, port
        self._routes = routes
        self._monitor = monitor
        self._cors_origins = frozenset(origin.lower() for origin in cors_origins)
        self._message_seconds = message_seconds
        self._max_message_bytes = max_message_bytes
        self._senders, self._readers = Silence(message_seconds), Silence(READING_SECONDS)
        self._active: set[asyncio.Task] = set()
        self._access: Access | None = None
        self._server: web.Server | None = None
        self._sockets: asyncio.Server | None = None
        self.address: str | None = None

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: The port cannot be listened on.
        """
        self._server = web.Server(
            self._handle,
            handler_cancellation=True,
            keepalive_timeout=self._message_seconds,
            access_log=None,
        )
        loop = asyncio.get_running_loop()
        self._sockets = await loop.create_server(self._server, self._host, self._port)
        addresses = [listening.getsockname() for listening in self._sockets.sockets]
        loopback = all(ipaddress.ip_address(address[0]).is_loopback for address in addresses)
        self._access = Access("http", loopback, self._cors_origins)
        self.address = f"http://{url_host(self._host)}:{addresses[0][1]}"

    async def stop(self, grace: float) -> None:
        """Refuses new requests, and returns when those under way are done.

        Args:
            grace: Time in seconds after which the requests still under way are canceled.
        """
        if self._sockets is None or self._server is None:
            return
        self._sockets.close()
        self._server.pre_shutdown()
        self._senders.close(RequestError(grpc.StatusCode.UNAVAILABLE, "the server stops"))
        if self._active:
            await asyncio.wait(self._active, timeout=grace)
        for task in list(self._active):
            task.cancel()
        await self._server.shutdown(timeout=1)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._active.add(task)
        try:
            return await self._answer(request)
        finally:
            self._active.discard(task)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        route = self._route(request)
        log = RequestLog(route.name, _peer(request), entrypoint="REST")
        match = route.path.fullmatch(_path(request))
        assert match is not None and self._access is not None
        exchange = Exchange(
            request,
            match,
            log,
            self._access.headers(request.headers),
            self._senders,
            self._readers,
            self._max_message_bytes,
        )
        with self._monitor.call(log, logged=route.logged):
            try:
                self._access.check(request.headers)
                await route.answer(exchange)
            except RequestError as error:
                await self._refuse(exchange, error)
            except (asyncio.CancelledError, ConnectionError):
                log.status, log.error = "CANCELLED", "the client has gone"
                raise
            except Exception:
                logger.exception("%s failed", route.name)
                message = "internal error; the server's log has more"
                await self._refuse(exchange, RequestError(grpc.StatusCode.INTERNAL, message))
        assert exchange.response is not None
        return exchange.response

    def _route(self, request: web.BaseRequest) -> Route:
        """Returns the route of a request, or one that refuses it."""
        path = _path(request)
        for route in self._routes:
            if route.http_method == request.method and route.path.fullmatch(path):
                return route
        is_preflight = request.method == "OPTIONS" and "Origin" in request.headers
        return PREFLIGHT_ROUTE if is_preflight else UNKNOWN_ROUTE

    async def _refuse(self, exchange: Exchange, error: RequestError) -> None:
        """Answers with an error, or ends the connection if the answer has begun."""
        log = exchange.log
        log.status, log.error = error.code.name, str(error)
        if exchange.response is None:
            await exchange.reply(error_json(str(error)), HTTP_STATUSES[error.code])
        else:
            exchange.abort()


async def _answer_preflight(exchange: Exchange) -> None:
    await exchange.reply(b"", headers=PREFLIGHT)


async def _refuse_unknown(exchange: Exchange) -> None:
    method, path = exchange.method, exchange.match.string
    if API_PATH.fullmatch(path):
        raise invalid(f"Malformed request: {method} {path}")
    raise RequestError(grpc.StatusCode.NOT_FOUND, f"nothing is at {path}")


PREFLIGHT_ROUTE = Route("OPTIONS", ANY_PATH, "Preflight", _answer_preflight, logged=False)
# A name made up by a client must not become a time series.
UNKNOWN_ROUTE = Route("", ANY_PATH, "unknown", _refuse_unknown)


def _path(request: web.BaseRequest) -> str:
    """Returns the path with its query, also of a request that names the server as well."""
    scheme, separator, rest = request.raw_path.partition("://")
    if separator and scheme.lower() in ("http", "https"):
        return "/" + rest.partition("/")[2]
    return request.raw_path


def _peer(request: web.BaseRequest) -> str:
    """Returns a client's address as gRPC names it, so that it has one turn with both."""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if not peer:
        return "unknown"
    host, port, *_ = peer
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
