"""The two clients: one blocks until the answer is there, the other is awaited."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from serving.client.answers import PartialCompletions
from serving.client.base_client import BaseClient
from serving.client.carriers import AsyncConnection, Exchange
from serving.client.connection import Deadline
from serving.client.errors import Failure


class Client(BaseClient):
    """A client whose methods block until the answer is there. Threads may share it.

    Arguments and methods: see `BaseClient`.

    Example:
        ```python
        from igpt_keras import samplers
        from serving import Client

        with Client("localhost:8500") as client:
            completions = client.complete(
                ["cat.png"], keep_rows=16, num_completions=4, sampler=samplers.Categorical(0.9)
            )
        ```
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._connection = self._carrier.connect()

    def _ask(self, query):
        deadline = Deadline(self.timeout)
        with self._errors(query.signature_name):
            return self._answer(query.exchange, deadline)

    def _answer(self, exchange: Exchange[Any], deadline: Deadline) -> Any:
        response = None
        while True:
            try:
                message = exchange.send(response)
            except StopIteration as stop:
                return stop.value
            response = self._send(message, deadline)

    def _send(self, message, deadline):
        attempts = self._attempts(deadline)
        while True:
            try:
                return self._connection.send(message, deadline.remaining())
            except Failure as failure:
                pause = attempts.pause_after(failure)
            time.sleep(pause)

    def _follow(self, query) -> Iterator[PartialCompletions]:
        deadline = Deadline(self.timeout)
        attempts = self._attempts(deadline)
        connection: Any = self._connection
        has_begun = False
        with self._errors():
            while True:
                parts = connection.stream(query.message, deadline.remaining())
                try:
                    with contextlib.closing(parts):
                        for part in parts:
                            has_begun = True
                            yield from query.reader.read(part)
                    query.reader.end()
                    return
                except Failure as failure:
                    if has_begun:
                        raise
                    pause = attempts.pause_after(failure)
                time.sleep(pause)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncClient(BaseClient):
    """A client whose methods are coroutines.

    It belongs to the event loop of its first request. Canceling a task cancels its request on
    the server. Arguments and methods: see `BaseClient`.

    Example:
        ```python
        import asyncio

        from serving import AsyncClient

        async def complete(paths):
            async with AsyncClient("localhost:8500") as client:
                return await asyncio.gather(
                    *(client.complete([path], keep_rows=16) for path in paths)
                )
        ```
    """

    @functools.cached_property
    def _connection(self) -> AsyncConnection:
        return self._carrier.connect_asynchronously()

    async def _ask(self, query):
        deadline = Deadline(self.timeout)
        with self._errors(query.signature_name):
            return await self._answer(query.exchange, deadline)

    async def _answer(self, exchange: Exchange[Any], deadline: Deadline) -> Any:
        response = None
        while True:
            try:
                message = exchange.send(response)
            except StopIteration as stop:
                return stop.value
            response = await self._send(message, deadline)

    async def _send(self, message, deadline):
        attempts = self._attempts(deadline)
        while True:
            try:
                return await self._connection.send(message, deadline.remaining())
            except Failure as failure:
                pause = attempts.pause_after(failure)
            await asyncio.sleep(pause)

    async def _follow(self, query) -> AsyncIterator[PartialCompletions]:
        deadline = Deadline(self.timeout)
        attempts = self._attempts(deadline)
        connection: Any = self._connection
        has_begun = False
        with self._errors():
            while True:
                parts = connection.stream(query.message, deadline.remaining())
                try:
                    async with contextlib.aclosing(parts):
                        async for part in parts:
                            has_begun = True
                            for partial in query.reader.read(part):
                                yield partial
                    query.reader.end()
                    return
                except Failure as failure:
                    if has_begun:
                        raise
                    pause = attempts.pause_after(failure)
                await asyncio.sleep(pause)

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
