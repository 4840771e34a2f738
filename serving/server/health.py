"""gRPC's health checks and reflection, as conversations on the event loop."""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

from serving.server.calls import Conversation, Exchange, Silence, parsed
from serving.server.errors import RequestError
from serving.server.monitoring import RequestLog

Status = health_pb2.HealthCheckResponse.ServingStatus
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name


@dataclasses.dataclass(frozen=True)
class _Unlogged:
    """A conversation of which the log tells only when it ends badly."""

    converse: Callable[[Exchange, RequestLog], Awaitable[None]]
    logged: bool = False

    async def __call__(self, exchange: Exchange, log: RequestLog) -> None:
        await self.converse(exchange, log)


class Health:
    """The state of the services, which Check and Watch tell. For one event loop.

    `grpc_health` has a servicer too, whose Watch does not end when a server stops.

    Args:
        services: The names that clients may ask for.
    """

    def __init__(self, services: Collection[str]):
        self._services = frozenset(services)
        self._stopping = asyncio.Event()
        self._watchers = Silence(None)

    def stop(self) -> None:
        """Reports NOT_SERVING from now on, and ends the calls of Watch when they know."""
        self._stopping.set()

    def conversations(self) -> dict[str, Conversation]:
        """Returns the methods by path."""
        return {
            f"/{HEALTH}/Check": _Unlogged(self._check),
            f"/{HEALTH}/Watch": _Unlogged(self._watch),
        }

    async def _check(self, exchange: Exchange, log: RequestLog) -> None:
        service = parsed(health_pb2.HealthCheckRequest, await exchange.receive(), log).service
        if service not in self._services:
            raise RequestError(grpc.StatusCode.NOT_FOUND, f"unknown service: {service}")
        await self._tell(exchange, service)

    async def _watch(self, exchange: Exchange, log: RequestLog) -> None:
        service = parsed(health_pb2.HealthCheckRequest, await exchange.receive(), log).service
        if not self._stopping.is_set():
            await self._tell(exchange, service)
            await self._watchers.wait(self._stopping.wait())
        await self._tell(exchange, service)

    async def _tell(self, exchange: Exchange, service: str) -> None:
        status = Status.SERVICE_UNKNOWN
        if service in self._services:
            status = Status.NOT_SERVING if self._stopping.is_set() else Status.SERVING
        response = health_pb2.HealthCheckResponse(status=status)
        await exchange.send(response.SerializeToString())


class Reflection:
    """The services' descriptions, for tools such as grpcurl.

    Args:
        services: The full names of the services.
    """

    def __init__(self, services: Collection[str]):
        self._servicer: Any = aio.ReflectionServicer([*services, HEALTH, REFLECTION])

    def conversations(self) -> dict[str, Conversation]:
        """Returns the methods by path."""
        return {f"/{REFLECTION}/ServerReflectionInfo": _Unlogged(self._describe)}

    async def _describe(self, exchange: Exchange, log: RequestLog) -> None:
        requests = (
            parsed(reflection_pb2.ServerReflectionRequest, message, log)
            async for message in exchange.messages()
        )
        async for response in self._servicer.ServerReflectionInfo(requests, None):
            await exchange.send(response.SerializeToString())
