"""Connections of HTTP: how many there are, how long they may wait, and what is no HTTP."""

import asyncio
import errno
import logging
import resource
import socket
from collections.abc import Callable
from typing import Any

from aiohttp import web

from serving.server.certificates import Credentials
from serving.server.listener import url_host

# Fewer where the operating system allows less than twice as many open files.
MAX_CONNECTIONS = 2048
BACKLOG = 128
# A browser's requests have about twenty headers of some hundred bytes.
MAX_HEADERS, MAX_HEADER_BYTES, MAX_LINE_BYTES = 64, 4096, 8190
# How long the rest of a request that was refused is read, so that its client reads the answer.
LINGERING_SECONDS = 5.0
OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
PAUSE_SECONDS = 0.1
logger = logging.getLogger(__name__)
# Answers what is no HTTP, given why.
Refuse = Callable[[web.BaseRequest, str], web.Response]


class Waiting:
    """What waits for its client, the longest first."""

    def __init__(self):
        self._ends: dict[object, Callable[[], object]] = {}

    def add(self, waiter: object, end: Callable[[], object]) -> None:
        """Adds what waits from now on, and the function that ends it."""
        self._ends.pop(waiter, None)
        self._ends[waiter] = end

    def remove(self, waiter: object) -> None:
        """Removes what waits no longer."""
        self._ends.pop(waiter, None)

    def end_longest(self) -> bool:
        """Ends what has waited longest; returns False if nothing waits."""
        if not self._ends:
            return False
        waiter, end = next(iter(self._ends.items()))
        del self._ends[waiter]
        end()
        return True


class Connection(web.RequestHandler):
    """A connection, of which aiohttp reads the requests.

    Args:
        manager: aiohttp's server.
        waiting: Takes the connection while it waits for its client.
        refuse: Answers what is no HTTP.
        settings: Those of aiohttp.
    """

    def __init__(self, manager: web.Server, waiting: Waiting, refuse: Refuse, **settings: Any):
        super().__init__(manager, **settings)
        self._waiting, self._refuse = waiting, refuse

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins to wait for a request."""
        super().connection_made(transport)
        self.wait()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Notes that nobody waits any more."""
        self._waiting.remove(self)
        super().connection_lost(exc)

    def wait(self) -> None:
        """Notes that the client is to send or to read something."""
        if self.connected:
            self._waiting.add(self, self.abort)

    def work(self) -> None:
        """Notes that the client waits for the server."""
        self._waiting.remove(self)

    def abort(self) -> None:
        """Ends the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what is no HTTP."""
        if isinstance(exc, ConnectionError):
            raise exc
        return self._refuse(request, message or str(exc))


class _Server(web.Server):
    """aiohttp's server, with connections of our own, which it counts."""

    def __init__(self, handler: Any, waiting: Waiting, refuse: Refuse, **settings: Any):
        super().__init__(handler, handler_cancellation=True)
        self.open = 0
        self._settings = {"waiting": waiting, "refuse": refuse, **settings}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self.open += 1
        super().connection_made(handler, transport)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        self.open -= 1
        super().connection_lost(handler, exc)

    def __call__(self) -> Connection:
        return Connection(self, loop=asyncio.get_running_loop(), **self._settings)


class Connections:
    """Listens on a port, and accepts a limited number of connections.

    Beyond the limit, the one ends that has waited longest for its client.

    Args:
        handler: Answers a request.
        refuse: Answers what is no HTTP.
        tls_failed: Called with a client's address and the error of a failed TLS handshake.
        credentials: For TLS; None for no encryption.
        seconds: How long a client may take for a handshake, and for the head of a request.
    """

    def __init__(
        self,
        handler: Any,
        refuse: Refuse,
        tls_failed: Callable[[Any, Exception], None],
        credentials: Credentials | None,
        seconds: float,
    ):
        self._waiting = Waiting()
        self._server = _Server(
            handler,
            self._waiting,
            refuse,
            keepalive_timeout=seconds,
            lingering_time=LINGERING_SECONDS,
            access_log=None,
            auto_decompress=False,
            max_headers=MAX_HEADERS,
            max_field_size=MAX_HEADER_BYTES,
            max_line_size=MAX_LINE_BYTES,
        )
        self._tls_failed, self._credentials, self._seconds = tls_failed, credentials, seconds
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task] = set()
        self._connecting = 0
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = files == resource.RLIM_INFINITY
        self._limit = MAX_CONNECTIONS if unlimited else min(MAX_CONNECTIONS, files // 2)

    def listen(self, host: str, port: int) -> list[Any]:
        """Listens on every address of a host.

        Returns:
            The addresses as bound.

        Raises:
            OSError: One cannot be listened on.
        """
        try:
            for family, address in _addresses(host, port):
                listening = socket.create_server(
                    (address, port),
                    family=family,
                    backlog=BACKLOG,
                    dualstack_ipv6=address == "::" and socket.has_dualstack_ipv6(),
                )
                listening.setblocking(False)
                self._sockets.append(listening)
                # The other addresses get the same port if it was free.
                port = listening.getsockname()[1]
        except OSError as error:
            self._close_sockets()
            raise OSError(f"cannot listen on {url_host(host)}:{port}: {error}") from None
        self._tasks.update(map(asyncio.create_task, map(self._accept, self._sockets)))
        return [listening.getsockname() for listening in self._sockets]

    def close(self) -> None:
        """Listens no longer, and ends the connections that wait for a request."""
        for task in self._tasks:
            task.cancel()
        self._close_sockets()
        self._server.pre_shutdown()

    async def end(self) -> None:
        """Ends all connections."""
        await self._server.shutdown(timeout=1)

    def _close_sockets(self) -> None:
        for listening in self._sockets:
            listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # Without, the others would have no turn as long as connections come.
            await asyncio.sleep(0)
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in OUT_OF_FILES:
                    logger.error("a connection cannot be accepted: %s", error)
                    self._waiting.end_longest()
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            if (
                self._server.open + self._connecting >= self._limit
                and not self._waiting.end_longest()
            ):
                accepted.close()
                continue
            task = loop.create_task(self._connect(accepted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        """Shakes hands, after which the connection looks after itself."""
        task = asyncio.current_task()
        assert task is not None
        self._connecting += 1
        self._waiting.add(task, task.cancel)
        peer: Any = None
        try:
            peer = accepted.getpeername()
            await asyncio.get_running_loop().connect_accepted_socket(
                self._server,
                accepted,
                ssl=self._credentials and self._credentials.for_https(),
                ssl_handshake_timeout=self._seconds if self._credentials else None,
            )
        except OSError as error:
            if self._credentials and peer:
                self._tls_failed(peer, error)
        finally:
            self._connecting -= 1
            self._waiting.remove(task)


def _addresses(host: str, port: int) -> list[tuple[int, str]]:
    """Returns the address families and addresses of a host, each once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, *_, address in found))
