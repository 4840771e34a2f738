"""The bodies of requests, whose size and time are limited."""

import asyncio
import zlib

import grpc
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from serving.server.calls import Silence
from serving.server.errors import RequestError, invalid

# Bodies of the largest size that are received at a time, or as much of smaller ones.
MAX_LARGEST_BODIES = 8
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
GZIP = zlib.MAX_WBITS | 16


class Bodies:
    """Receives bodies. For one event loop.

    Args:
        senders: The requests whose clients are to send something.
        max_bytes: The largest body, also after decompression.
    """

    def __init__(self, senders: Silence, max_bytes: int):
        self._senders = senders
        self._max_bytes = max_bytes
        self._held = 0

    async def receive(self, request: web.BaseRequest) -> bytes:
        """Returns the body of a request, decompressed.

        Raises:
            RequestError: It is too large, cannot be read, did not come in time, or was the
                slowest of too many.
        """
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if encoding not in ("identity", "gzip"):
            raise invalid(f"Content-Encoding must be gzip or identity, got {encoding}")
        length = request.content_length or 0
        if length > self._max_bytes:
            raise self._too_large(length)
        body = await self._senders.wait(self._read(request))
        if encoding == "gzip":
            return await asyncio.to_thread(self._decompressed, body)
        return body

    async def _read(self, request: web.BaseRequest) -> bytes:
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(CONTINUE)
            request.writer.output_size = 0
        body = bytearray()
        try:
            async for piece in request.content.iter_any():
                body += piece
                self._held += len(piece)
                if len(body) > self._max_bytes:
                    raise self._too_large(len(body))
                if self._held > MAX_LARGEST_BODIES * self._max_bytes:
                    self._senders.end_longest("too many large requests are being received")
        except (web.RequestPayloadError, HttpProcessingError) as error:
            raise invalid(f"the body cannot be read: {error}") from None
        finally:
            self._held -= len(body)
        return bytes(body)

    def _decompressed(self, body: bytes) -> bytes:
        stream = zlib.decompressobj(GZIP)
        try:
            text = stream.decompress(body, self._max_bytes + 1)
        except zlib.error as error:
            raise invalid(f"the body cannot be decompressed: {error}") from None
        if len(text) > self._max_bytes:
            raise self._too_large(len(text))
        if not stream.eof or stream.unused_data:
            raise invalid("the body is not one gzip stream")
        return text

    def _too_large(self, size: int) -> RequestError:
        # gRPC's words for the same.
        return RequestError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"Received message larger than max ({size} vs. {self._max_bytes})",
        )
