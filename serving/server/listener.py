"""gRPC behind a port: an event loop in a thread of its own."""

import asyncio
import socket
import threading
from collections.abc import Mapping
from concurrent import futures
from typing import Protocol

import grpc

from serving.server.calls import Calls, Conversation
from serving.server.certificates import Credentials
from serving.server.health import Health, Reflection
from serving.server.monitoring import Monitor
from serving.server.services import SERVICES

# TensorFlow Serving's health service knows these names, "" stands for the whole server.
HEALTH_NAMES = ("", *(name.rpartition(".")[2] for name in SERVICES), *SERVICES)


class OtherPort(Protocol):
    """What listens on another port, on the same event loop."""

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: The port cannot be listened on.
        """
        ...

    async def stop(self, grace: float) -> None:
        """Refuses new requests, and returns when those under way are done or canceled."""
        ...


class Listener:
    """Takes the calls of a port, with health checks and reflection.

    Args:
        conversations: What the methods do, by path.
        monitor: Counts and logs the calls.
        message_seconds: How long a call may wait for its client's message.
        max_message_bytes: The largest message.
    """

    def __init__(
        self,
        conversations: Mapping[str, Conversation],
        monitor: Monitor,
        message_seconds: float,
        max_message_bytes: int,
    ):
        self._health = Health(HEALTH_NAMES)
        self._calls = Calls(
            {
                **conversations,
                **self._health.conversations(),
                **Reflection(SERVICES).conversations(),
            },
            message_seconds,
            monitor,
        )
        self._options = [
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # A port that another server listens on is an error, not shared.
            ("grpc.so_reuseport", 0),
        ]
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._grace: asyncio.Future[float] | None = None

    def start(
        self,
        host: str,
        port: int,
        credentials: Credentials | None,
        other: OtherPort | None = None,
    ) -> int:
        """Listens, and answers calls in other threads.

        Args:
            host: The network interface.
            port: The port; 0 for a free one.
            credentials: For TLS; None for no encryption.
            other: What listens besides.

        Returns:
            The port as bound.

        Raises:
            OSError: The port is in use, or cannot be listened on.
        """
        bound: futures.Future[int] = futures.Future()

        async def serve() -> None:
            try:
                server = grpc.aio.server(handlers=[self._calls], options=self._options)
                number = _bind(server, host, port, credentials)
                if other is not None:
                    await other.start()
                await server.start()
            except BaseException as error:
                bound.set_exception(error)
                return
            self._loop = asyncio.get_running_loop()
            self._grace = self._loop.create_future()
            bound.set_result(number)
            await self._end(server, other, await self._grace)

        thread = threading.Thread(target=lambda: asyncio.run(serve()), name="grpc", daemon=True)
        thread.start()
        number = bound.result()
        self._thread = thread
        return number

    def stop(self, grace: float) -> None:
        """Refuses new calls, and returns when those under way are done.

        Args:
            grace: Time in seconds after which the calls still under way are canceled.
        """
        if self._thread is None:
            return
        assert self._loop is not None and self._grace is not None
        self._loop.call_soon_threadsafe(self._grace.set_result, grace)
        self._thread.join()
        self._thread = None

    async def _end(self, server: grpc.aio.Server, other: OtherPort | None, grace: float) -> None:
        self._health.stop()
        self._calls.stop()
        ends = [server.stop(grace), *([other.stop(grace)] if other else [])]
        await asyncio.gather(*ends)


def url_host(host: str) -> str:
    """Returns a host as an address names it: in brackets if it is one of IPv6."""
    return f"[{host}]" if ":" in host else host


def _bind(server: grpc.aio.Server, host: str, port: int, credentials: Credentials | None) -> int:
    address = f"{url_host(host)}:{port}"
    try:
        check_free(host, port)
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials.for_grpc())
    except (OSError, RuntimeError) as error:
        raise OSError(f"cannot listen on {address}: {error}") from None


def check_free(host: str, port: int) -> None:
    """Raises the system's error for a port that cannot be listened on, which gRPC only logs."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.create_server(address[:2], family=family):
        pass
