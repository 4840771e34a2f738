"""HTTP behind a port, on the event loop of gRPC."""

import asyncio
import ipaddress
import logging
from collections.abc import Sequence
from typing import Any

import grpc
from aiohttp import web

from serving.server.calls import READING_SECONDS, Silence
from serving.server.certificates import Credentials
from serving.server.errors import RequestError, invalid
from serving.server.listener import url_host
from serving.server.monitoring import Monitor, RequestLog
from serving.server.rest.access import API_POLICY, PREFLIGHT, SAFE_HEADERS, Access
from serving.server.rest.bodies import Bodies
from serving.server.rest.connections import Connections
from serving.server.rest.exchanges import JSON, Exchange
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
        credentials: For TLS; None for no encryption.
        message_seconds: How long a client has for each: a TLS handshake, the head of a request,
            and its body.
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
        cors_origins: frozenset[str],
        credentials: Credentials | None,
        message_seconds: float,
        max_message_bytes: int,
    ):
        self._host, self._port = host, port
        self._routes = routes
        self._monitor = monitor
        self._cors_origins = cors_origins
        self._credentials, self._message_seconds = credentials, message_seconds
        self._max_message_bytes = max_message_bytes
        self._senders, self._readers = Silence(message_seconds), Silence(READING_SECONDS)
        self._bodies = Bodies(self._senders, max_message_bytes)
        self._active: set[asyncio.Task] = set()
        self._access: Access | None = None
        self._connections: Connections | None = None
        self.address: str | None = None

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: The port cannot be listened on.
        """
        connections = Connections(
            self._handle,
            self._refuse_broken,
            self._note_failed_handshake,
            self._credentials,
            self._message_seconds,
        )
        addresses = connections.listen(self._host, self._port)
        self._connections = connections
        scheme = "https" if self._credentials else "http"
        loopback = all(ipaddress.ip_address(address[0]).is_loopback for address in addresses)
        self._access = Access(scheme, loopback, self._cors_origins)
        self.address = f"{scheme}://{url_host(self._host)}:{addresses[0][1]}"

    async def stop(self, grace: float) -> None:
        """Refuses new requests, and returns when those under way are done.

        Args:
            grace: Time in seconds after which the requests still under way are canceled.
        """
        if self._connections is None:
            return
        self._connections.close()
        self._senders.close(RequestError(grpc.StatusCode.UNAVAILABLE, "the server stops"))
        if self._active:
            await asyncio.wait(self._active, timeout=grace)
        for task in list(self._active):
            task.cancel()
        await self._connections.end()

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
            self._bodies,
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
            finally:
                exchange.end()
        assert exchange.response is not None
        return exchange.response

    def _refuse_broken(self, request: web.BaseRequest, message: str) -> web.Response:
        """Answers what is no HTTP, and notes it."""
        error = invalid(f"the request is not HTTP: {message}")
        log = RequestLog("unknown", _peer(request), entrypoint="REST")
        with self._monitor.call(log):
            log.status, log.error = error.code.name, str(error)
        response = web.Response(
            body=error_json(str(error)),
            status=HTTP_STATUSES[error.code],
            headers={"Content-Type": JSON, "Content-Security-Policy": API_POLICY, **SAFE_HEADERS},
        )
        response.force_close()
        return response

    def _note_failed_handshake(self, peer: Any, error: Exception) -> None:
        log = RequestLog("unknown", _named(peer), entrypoint="REST")
        with self._monitor.call(log):
            log.status, log.error = "UNAUTHENTICATED", f"the TLS handshake failed: {error}"

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
        try:
            if exchange.response is not None:
                raise error
            await exchange.reply(error_json(str(error)), HTTP_STATUSES[error.code])
        except RequestError:
            # The answer has begun, or the client does not read.
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
    return _named(peer) if peer else "unknown"


def _named(peer: tuple) -> str:
    host, port, *_ = peer
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
