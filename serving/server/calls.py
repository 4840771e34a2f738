"""Calls on an event loop, which take a thread once their message has arrived.

A call that sends nothing costs a few kilobytes and ends after some seconds, so that any number of
them leaves the threads to others and the health checks answered.
"""

import asyncio
import dataclasses
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent import futures
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError

from serving.server.batching import Call
from serving.server.errors import RequestError
from serving.server.monitoring import Monitor, RequestLog

# Calls that wait for their clients; beyond them, the one that has waited longest ends.
MAX_SILENT_CALLS = 4096
# A client that gives up at its deadline is heard of shortly before the deadline passes here.
DEADLINE_TOLERANCE_SECONDS = 0.1
# How long a client may take to read an answer.
READING_SECONDS = 300.0
# What gRPC reads when a client sends no more; its type hints lack it.
END = getattr(grpc.aio, "EOF")  # noqa: B009
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Silence:
    """The calls that wait for their clients, the longest first. For one event loop.

    Args:
        seconds: How long a call may wait; None for as long as it likes.
    """

    def __init__(self, seconds: float | None):
        self._seconds = seconds
        self._waiting: dict[asyncio.Task, None] = {}
        self._errors: dict[asyncio.Task, RequestError] = {}
        self._closed: RequestError | None = None

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Returns what the current call waits for.

        Raises:
            RequestError: It did not come in time, or the call made room for another.
        """
        task = asyncio.current_task()
        assert task is not None
        if len(self._waiting) == MAX_SILENT_CALLS:
            self.end_longest(f"more than {MAX_SILENT_CALLS} calls wait for their clients")
        self._waiting[task] = None
        try:
            if self._closed:
                self._end(task, self._closed)
            return await asyncio.wait_for(awaitable, self._seconds)
        except asyncio.TimeoutError:
            raise RequestError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"nothing came from the client within {self._seconds:g} seconds",
            ) from None
        except asyncio.CancelledError:
            if task in self._errors:
                raise self._errors[task] from None
            raise
        finally:
            self._waiting.pop(task, None)
            self._errors.pop(task, None)

    def end_longest(self, message: str) -> None:
        """Ends the call that has waited longest with RESOURCE_EXHAUSTED, if there is one."""
        if self._waiting:
            longest = next(iter(self._waiting))
            self._end(longest, RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, message))

    def close(self, error: RequestError) -> None:
        """Ends the calls that wait, now and from now on, with an error."""
        self._closed = error
        for task in list(self._waiting):
            self._end(task, error)

    def _end(self, task: asyncio.Task, error: RequestError) -> None:
        del self._waiting[task]
        self._errors[task] = error
        task.cancel()


class Exchange:
    """The messages of one call.

    Args:
        context: gRPC's side of the call.
        senders: The calls whose clients are to send something.
        readers: The calls whose clients are to read something.
    """

    def __init__(self, context: grpc.aio.ServicerContext, senders: Silence, readers: Silence):
        self._context = context
        self._senders, self._readers = senders, readers

    async def receive(self) -> bytes:
        """Returns the only message of a request.

        Raises:
            RequestError: None came.
        """
        message = await self._next()
        if message is END:
            raise RequestError(grpc.StatusCode.INTERNAL, "the call ended without a message")
        return message

    async def messages(self) -> AsyncIterator[bytes]:
        """Yields messages until the client sends no more."""
        while (message := await self._next()) is not END:
            yield message

    async def send(self, message: bytes) -> None:
        """Sends a message."""
        await self._readers.wait(self._context.write(message))

    async def _next(self) -> Any:
        return await self._senders.wait(self._context.read())


class Conversation(Protocol):
    """What a method does with a call.

    Attributes:
        logged: Whether a call that ends well is a line of the log.
    """

    @property
    def logged(self) -> bool: ...

    async def __call__(self, exchange: Exchange, log: RequestLog) -> None:
        """Holds the conversation.

        Raises:
            RequestError: The status that the call ends with.
        """
        ...


class Workers:
    """Threads that answer requests.

    Args:
        threads: The number of threads.
        places: Most requests in flight; more are refused.

    Attributes:
        in_flight: The number of requests that are being answered.
    """

    def __init__(self, threads: int, places: int):
        self._executor = futures.ThreadPoolExecutor(threads, "request")
        self._places = places
        self._lock = threading.Lock()
        self.in_flight = 0

    def check_free(self) -> None:
        """Checks that a place is free.

        Raises:
            RequestError: None is.
        """
        if self.in_flight >= self._places:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._places} requests are being answered already",
            )

    async def run(self, function: Callable[[], T]) -> T:
        """Returns what `function` returns in a thread."""
        with self._lock:
            self.check_free()
            self.in_flight += 1
        future = self._executor.submit(function)
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Lets the threads end."""
        self._executor.shutdown(wait=False)

    def _leave(self, _) -> None:
        with self._lock:
            self.in_flight -= 1


@dataclasses.dataclass
class Request:
    """A method with one message in each direction, answered in a thread.

    Args:
        answer: Makes the response.
        request_class: The class of the request's message.
        workers: The threads.
        max_bytes: The largest response.
    """

    answer: Callable[[Any, Call, RequestLog], Any]
    request_class: Any
    workers: Workers
    max_bytes: int
    logged: bool = True

    async def __call__(self, exchange: Exchange, log: RequestLog) -> None:
        """Answers one call."""
        # A message that would be refused afterwards is not read.
        self.workers.check_free()
        message = await exchange.receive()
        call = Call(log.peer)
        try:
            response = await self.workers.run(lambda: self._respond(message, call, log))
        except asyncio.CancelledError:
            call.abandon()
            raise
        await exchange.send(response)

    def _respond(self, message: bytes, call: Call, log: RequestLog) -> bytes:
        request = parsed(self.request_class, message, log)
        response = self.answer(request, call, log).SerializeToString()
        if len(response) > self.max_bytes:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"Sent message larger than max ({len(response)} vs. {self.max_bytes})",
            )
        return response


@dataclasses.dataclass(frozen=True)
class Unserved:
    """A method that the server does not have.

    Args:
        name: What the client is told.
    """

    name: str
    logged: bool = True

    async def __call__(self, exchange: Exchange, log: RequestLog) -> None:
        """Refuses the call."""
        raise RequestError(grpc.StatusCode.UNIMPLEMENTED, f"Method not found: {self.name}")


def parsed(message_class: Any, message: bytes, log: RequestLog) -> Any:
    """Parses a message.

    Raises:
        RequestError: INTERNAL, as gRPC itself answers.
    """
    log.bytes += len(message)
    try:
        return message_class.FromString(message)
    except DecodeError:
        raise RequestError(
            grpc.StatusCode.INTERNAL,
            f"Exception deserializing request: it is no {message_class.__name__}",
        ) from None


class Calls(grpc.GenericRpcHandler):
    """Takes every call of a server: holds its conversation, counts and logs it.

    Args:
        conversations: What the methods do, by path, as "/package.Service/Method".
        message_seconds: How long a call may wait for its client's message.
        monitor: Counts and logs the calls.
    """

    def __init__(
        self,
        conversations: Mapping[str, Conversation],
        message_seconds: float,
        monitor: Monitor,
    ):
        self._conversations = conversations
        self._senders = Silence(message_seconds)
        self._readers = Silence(READING_SECONDS)
        self._monitor = monitor

    def stop(self) -> None:
        """Ends the calls that wait for a message."""
        self._senders.close(RequestError(grpc.StatusCode.UNAVAILABLE, "the server stops"))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Returns gRPC's handler for a call."""
        path = handler_call_details.method

        async def handle(_, context: grpc.aio.ServicerContext) -> None:
            await self._take(path, context)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _take(self, path: str, context: grpc.aio.ServicerContext) -> None:
        converse = self._conversations.get(path, Unserved(path))
        # A name made up by a client must not become a time series.
        method = path.rpartition("/")[2] if path in self._conversations else "unknown"
        log = RequestLog(method, context.peer())
        with self._monitor.call(log, logged=converse.logged):
            try:
                await converse(Exchange(context, self._senders, self._readers), log)
                return
            except RequestError as error:
                refusal = error
            except (asyncio.CancelledError, grpc.aio.BaseError):
                # The client has gone, its deadline has passed, or the server stops.
                _note_end(log, context)
                raise asyncio.CancelledError from None
            except Exception:
                logger.exception("%s failed", method)
                refusal = RequestError(
                    grpc.StatusCode.INTERNAL, "internal error; the server's log has more"
                )
            log.status, log.error = refusal.code.name, str(refusal)
            try:
                await context.abort(refusal.code, str(refusal))
            except (grpc.aio.InternalError, grpc.aio.UsageError):
                # As above, or gRPC has refused a message above the limit.
                _note_end(log, context)
                raise asyncio.CancelledError from None


def _note_end(log: RequestLog, context: grpc.aio.ServicerContext) -> None:
    """Notes how a call ended that cannot be answered."""
    remaining = context.time_remaining()
    if remaining is not None and remaining < DEADLINE_TOLERANCE_SECONDS:
        log.status, log.error = "DEADLINE_EXCEEDED", "the request's deadline has passed"
    elif log.bytes:
        log.status, log.error = "CANCELLED", "the client has gone"
    else:
        log.status = "CANCELLED"
        log.error = "the client has gone before its message was there, or the message is too large"
