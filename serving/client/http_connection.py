"""Connections that speak HTTP, and what their failures are called in gRPC."""

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import ssl
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import Any

import grpc
import httpx2

from igpt_keras.errors import InputError
from serving.client.connection import TLS, Deadline
from serving.client.errors import Failure
from serving.client.rest_json import excerpt

JSON, EVENTS = "application/json", "text/event-stream"
# TensorFlow Serving's table, ToHTTPStatusCode in model_servers/http_server.cc, read backward. A
# status that several codes share stands for the most frequent of them.
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    # Statuses of HTTP servers and proxies.
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    502: grpc.StatusCode.UNAVAILABLE,
}
_MAX_REFUSAL_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class HttpRequest:
    """A request to the server of a connection.

    Attributes:
        method: "GET" or "POST".
        path: The path, with its special characters escaped.
        body: JSON, or nothing.
        accept: The type that the answer must have.
    """

    method: str
    path: str
    body: bytes = b""
    accept: str = JSON


class HttpServer:
    """What connections to one server have in common.

    Args:
        address: "http://host:port" or "https://host:port".
        tls: Settings of an encrypted connection; None for the system's authorities.
        max_message_bytes: The largest request and response.

    Raises:
        InputError: The address has no valid host, or a certificate is none.
        OSError: A file of `tls` cannot be read.
    """

    def __init__(self, address: str, tls: TLS | None, max_message_bytes: int):
        try:
            self._url = httpx2.URL(address)
        except httpx2.InvalidURL as error:
            raise InputError(f"address must name a host, got {address!r} ({error})") from None
        self._context = _ssl_context(self._url.scheme, tls or TLS())
        self._extensions: dict[str, Any] = {}
        if tls is not None and tls.server_name is not None:
            self._extensions["sni_hostname"] = tls.server_name
        self._max_message_bytes = max_message_bytes

    def connect(self) -> "HttpConnection":
        """Returns a connection for any number of threads."""
        return HttpConnection(self, httpx2.Client(base_url=self._url, verify=self._context))

    def connect_asynchronously(self) -> "AsyncHttpConnection":
        """Returns a connection for the running event loop."""
        client = httpx2.AsyncClient(base_url=self._url, verify=self._context)
        return AsyncHttpConnection(self, client)

    def arguments(self, request: HttpRequest, timeout: float | None) -> dict[str, Any]:
        """Returns the arguments of `stream` of both of the library's clients."""
        if timeout is not None and timeout <= 0:
            raise _late()
        if len(request.body) > self._max_message_bytes:
            raise self.too_large("request", len(request.body))
        # What is not compressed cannot expand.
        headers = {"Accept": request.accept, "Accept-Encoding": "identity"}
        if request.body:
            headers["Content-Type"] = JSON
        return {
            "method": request.method,
            "url": request.path,
            "content": request.body,
            "headers": headers,
            "timeout": timeout,
            "extensions": self._extensions,
        }

    def too_large(self, name: str, num_bytes: int) -> Failure:
        """Returns the failure of a message above the limit."""
        return Failure(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"a {name} of {num_bytes} bytes, more than max_message_bytes {self._max_message_bytes}",
        )

    def add(self, content: bytearray, part: bytes) -> None:
        """Adds a part of a response to those before."""
        content += part
        if len(content) > self._max_message_bytes:
            raise self.too_large("response", len(content))


class HttpConnection:
    """A connection whose methods block. Threads may share it.

    The timeout is exact unless a server sends its answer in drops: then the last of them may
    arrive after it.
    """

    def __init__(self, server: HttpServer, client: httpx2.Client):
        self._server = server
        self._client = client

    def send(self, message: HttpRequest, timeout: float | None) -> bytes:
        """Sends a request and returns the response's content."""
        content = bytearray()
        with contextlib.closing(self.stream(message, timeout)) as parts:
            for part in parts:
                self._server.add(content, part)
        return bytes(content)

    def stream(self, message: HttpRequest, timeout: float | None) -> Generator[bytes, None, None]:
        """Sends a request and yields the parts of the response as they come."""
        deadline = Deadline(timeout)
        arguments = self._server.arguments(message, timeout)
        with _failures(), self._client.stream(**arguments) as response:
            refusal = _Refusal.of(response, message)
            for part in response.iter_raw():
                if deadline.remaining() == 0:
                    raise _late()
                if refusal is None:
                    yield part
                elif refusal.is_complete_with(part):
                    break
        if refusal is not None:
            raise refusal.failure()

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()


class AsyncHttpConnection:
    """A connection whose methods are awaited. Canceling a task closes its connection."""

    def __init__(self, server: HttpServer, client: httpx2.AsyncClient):
        self._server = server
        self._client = client

    async def send(self, message: HttpRequest, timeout: float | None) -> bytes:
        """Sends a request and returns the response's content."""
        try:
            return await asyncio.wait_for(self._content(message), timeout)
        # Python 3.10 has a class of its own for it.
        except asyncio.TimeoutError:
            raise _late() from None

    async def _content(self, message: HttpRequest) -> bytes:
        content = bytearray()
        async with contextlib.aclosing(self.stream(message, None)) as parts:
            async for part in parts:
                self._server.add(content, part)
        return bytes(content)

    async def stream(
        self, message: HttpRequest, timeout: float | None
    ) -> AsyncGenerator[bytes, None]:
        """Sends a request and yields the parts of the response as they come."""
        deadline = Deadline(timeout)
        arguments = self._server.arguments(message, timeout)
        with _failures():
            async with self._client.stream(**arguments) as response:
                refusal = _Refusal.of(response, message)
                async for part in response.aiter_raw():
                    if deadline.remaining() == 0:
                        raise _late()
                    if refusal is None:
                        yield part
                    elif refusal.is_complete_with(part):
                        break
        if refusal is not None:
            raise refusal.failure()

    async def close(self) -> None:
        """Closes the connection."""
        await self._client.aclose()


class _Refusal:
    """A response that is no answer, of which the beginning is read."""

    def __init__(self, response: httpx2.Response):
        self._response = response
        self._content = bytearray()

    @classmethod
    def of(cls, response: httpx2.Response, request: HttpRequest) -> "_Refusal | None":
        """Returns None for a response that is an answer."""
        content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        is_answer = response.status_code == 200 and content_type == request.accept
        return None if is_answer else cls(response)

    def is_complete_with(self, part: bytes) -> bool:
        """Takes another part; returns whether that is enough."""
        self._content += part
        return len(self._content) >= _MAX_REFUSAL_BYTES

    def failure(self) -> Failure:
        """Returns the failure that the response tells of."""
        response, content = self._response, bytes(self._content)
        code = CODES.get(response.status_code, grpc.StatusCode.UNKNOWN)
        with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
            error = json.loads(content)["error"]
            if isinstance(error, str):
                return Failure(code, error)
        details = [f"HTTP {response.status_code} {response.reason_phrase}"]
        if "Location" in response.headers:
            details.append(f"to {response.headers['Location']}")
        content_type = response.headers.get("Content-Type", "no Content-Type")
        details.append(f"({content_type}), no answer of a model server: {excerpt(content)}")
        return Failure(code, " ".join(details))


def _late() -> Failure:
    return Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer within the timeout")


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Gives the library's exceptions gRPC's codes."""
    try:
        yield
    except httpx2.TimeoutException:
        raise _late() from None
    # The library lets some errors of TLS and of the socket through.
    except (httpx2.TransportError, OSError) as error:
        # Some have no message.
        details = f"{type(error).__name__} {error}".strip()
        raise Failure(grpc.StatusCode.UNAVAILABLE, details) from None


def _ssl_context(scheme: str, tls: TLS) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if scheme == "https" and tls.root_certificates is None:
        # Loading the system's authorities takes a while.
        context = httpx2.create_ssl_context()
    if tls.root_certificates is not None:
        roots = pathlib.Path(tls.root_certificates).read_text(encoding="ascii", errors="replace")
        with _named("root_certificates", tls.root_certificates):
            context.load_verify_locations(cadata=roots)
    if tls.client_certificate is not None and tls.client_key is not None:
        pair = (tls.client_certificate, tls.client_key)
        for path in pair:
            # The SSL library does not name a file that is not there.
            open(path, "rb").close()
        with _named("client_certificate and client_key", " and ".join(map(str, pair))):
            context.load_cert_chain(*pair)
    return context


@contextlib.contextmanager
def _named(name: str, value: Any) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise InputError(f"{name} must be PEM files, got {value} ({error})") from None
