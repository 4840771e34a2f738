"""One HTTP request and its answer."""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import grpc
from aiohttp import web

from serving.server.batching import Call
from serving.server.calls import Silence, Workers
from serving.server.errors import RequestError
from serving.server.monitoring import RequestLog
from serving.server.rest.access import API_POLICY

JSON = "application/json"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
T = TypeVar("T")


class Exchange:
    """A request, and the answer that a route gives.

    A route answers with `reply`, or with `begin` and any number of `send`.

    Args:
        request: The request, whose headers are there.
        match: What the route's expression found in the path.
        log: Its entry in the log.
        headers: Headers of every answer to this request.
        senders: The requests whose clients are to send something.
        readers: The requests whose clients are to read something.
        max_message_bytes: The largest body.

    Attributes:
        match, log: As given.
        call: The client's side; abandoned when the client has gone.
        response: What was sent; None before.
    """

    def __init__(
        self,
        request: web.BaseRequest,
        match: re.Match[str],
        log: RequestLog,
        headers: Mapping[str, str],
        senders: Silence,
        readers: Silence,
        max_message_bytes: int,
    ):
        self._request = request
        self.match, self.log = match, log
        self._headers = headers
        self._senders, self._readers = senders, readers
        self._max_message_bytes = max_message_bytes
        self.call = Call(log.peer)
        self.response: web.StreamResponse | None = None

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self._request.method

    async def receive(self) -> bytes:
        """Returns the body, decompressed.

        Raises:
            RequestError: It is too large, cannot be read, or did not come in time.
        """
        body = await self._senders.wait(self._read())
        self.log.bytes = len(body)
        return body

    async def run(self, workers: Workers, function: Callable[[], T]) -> T:
        """Returns what `function` returns in a thread; abandons the call if the client goes.

        Raises:
            RequestError: No thread is free, or `function` raised it.
        """
        try:
            return await workers.run(function)
        except BaseException:
            self.call.abandon()
            raise

    async def reply(
        self,
        body: bytes,
        status: int = 200,
        content_type: str = JSON,
        policy: str = API_POLICY,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Sends the whole answer.

        Args:
            body: The body.
            status: The HTTP status.
            content_type: The body's type.
            policy: The Content-Security-Policy.
            headers: Further headers.

        Raises:
            RequestError: The answer is too large, or the client does not read it.
        """
        if len(body) > self._max_message_bytes:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"Sent message larger than max ({len(body)} vs. {self._max_message_bytes})",
            )
        self.response = web.Response(
            body=body,
            status=status,
            headers={**self._all_headers(content_type, policy), **(headers or {})},
        )
        await self._readers.wait(self._finish(self.response))

    async def begin(self, content_type: str) -> None:
        """Sends the head of an answer whose body comes in parts, as it is made."""
        self.response = web.StreamResponse(headers=self._all_headers(content_type, API_POLICY))
        await self._readers.wait(self.response.prepare(self._request))

    async def send(self, part: bytes) -> None:
        """Sends a part, and returns when the client reads fast enough for another.

        Raises:
            RequestError: The client does not read.
        """
        assert self.response is not None
        await self._readers.wait(self.response.write(part))

    def abort(self) -> None:
        """Ends the connection in the middle of an answer."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def _all_headers(self, content_type: str, policy: str) -> dict[str, str]:
        return {
            "Content-Type": content_type,
            "Content-Security-Policy": policy,
            **self._headers,
        }

    async def _finish(self, response: web.Response) -> None:
        await response.prepare(self._request)
        await response.write_eof()

    async def _read(self) -> bytes:
        if self._request.headers.get("Expect", "").lower() == "100-continue":
            await self._request.writer.write(CONTINUE)
            self._request.writer.output_size = 0
        length = self._request.content_length or 0
        if length > self._max_message_bytes:
            raise self._too_large(length)
        body = bytearray()
        try:
            async for piece in self._request.content.iter_any():
                body += piece
                if len(body) > self._max_message_bytes:
                    raise self._too_large(len(body))
        except (web.RequestPayloadError, web.HTTPException, ValueError) as error:
            raise RequestError(
                grpc.StatusCode.INVALID_ARGUMENT, f"the body cannot be read: {error}"
            ) from None
        return bytes(body)

    def _too_large(self, size: int) -> RequestError:
        # gRPC's words for the same.
        return RequestError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"Received message larger than max ({size} vs. {self._max_message_bytes})",
        )
