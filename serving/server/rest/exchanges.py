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
from serving.server.rest.bodies import Bodies
from serving.server.rest.connections import Connection

JSON = "application/json"
OK = 200
T = TypeVar("T")


class Exchange:
    """A request, and the answer that a route gives.

    A route answers with `reply`, or with `begin`, any number of `send`, and `finish`.

    Args:
        request: The request, whose headers are there.
        match: What the route's expression found in the path.
        log: Its entry in the log.
        headers: Headers of every answer to this request.
        bodies: Receives its body.
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
        bodies: Bodies,
        readers: Silence,
        max_message_bytes: int,
    ):
        self._request = request
        protocol = request.protocol
        assert isinstance(protocol, Connection)
        self._connection = protocol
        self.match, self.log = match, log
        self._headers = headers
        self._bodies, self._readers = bodies, readers
        self._max_message_bytes = max_message_bytes
        self.call = Call(log.peer)
        self.response: web.StreamResponse | None = None

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self._request.method

    def header(self, name: str) -> str:
        """Returns a header of the request; "" if it has none of that name."""
        return self._request.headers.get(name, "")

    async def receive(self) -> bytes:
        """Returns the body, decompressed.

        Raises:
            RequestError: It is too large, cannot be read, or did not come in time.
        """
        body = await self._bodies.receive(self._request)
        self.log.bytes = len(body)
        return body

    async def run(self, workers: Workers, function: Callable[[], T]) -> T:
        """Returns what `function` returns in a thread; abandons the call if the client goes.

        Raises:
            RequestError: No thread is free, or `function` raised it.
        """
        self._connection.work()
        try:
            return await workers.run(function)
        except BaseException:
            self.call.abandon()
            raise
        finally:
            self._connection.wait()

    async def reply(
        self,
        body: bytes,
        status: int = OK,
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
        # A refusal is short.
        if status == OK and len(body) > self._max_message_bytes:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"Sent message larger than max ({len(body)} vs. {self._max_message_bytes})",
            )
        self.response = web.Response(
            body=body,
            status=status,
            headers={**self._all_headers(content_type, policy), **(headers or {})},
        )
        if not self._request.content.is_eof():
            # What is left of the request is not the next one.
            self.response.force_close()
        await self._readers.wait(self._finish(self.response))

    async def begin(self, content_type: str) -> None:
        """Sends the head of an answer whose body comes in parts, as it is made."""
        self._connection.work()
        self.response = web.StreamResponse(headers=self._all_headers(content_type, API_POLICY))
        await self._readers.wait(self.response.prepare(self._request))

    async def send(self, part: bytes) -> None:
        """Sends a part, and returns when the client reads fast enough for another.

        Raises:
            RequestError: The client does not read.
        """
        assert self.response is not None
        await self._readers.wait(self.response.write(part))

    async def finish(self) -> None:
        """Ends an answer that `begin` has begun.

        Raises:
            RequestError: The client does not read.
        """
        assert self.response is not None
        await self._readers.wait(self.response.write_eof())

    def abort(self) -> None:
        """Ends the connection in the middle of an answer."""
        self._connection.abort()

    def end(self) -> None:
        """Notes that the answer is over, and the client may ask again."""
        self._connection.wait()

    def _all_headers(self, content_type: str, policy: str) -> dict[str, str]:
        return {
            "Content-Type": content_type,
            "Content-Security-Policy": policy,
            **self._headers,
        }

    async def _finish(self, response: web.Response) -> None:
        await response.prepare(self._request)
        await response.write_eof()
