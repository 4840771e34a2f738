"""The two ways to carry requests to a server: gRPC and REST.

A carrier writes requests and reads responses in one protocol, and sends nothing itself. A
connection sends messages and knows nothing of what they ask; one that is not gRPC's streams, too.
"""

import dataclasses
from collections.abc import Generator
from typing import Any, Protocol, TypeVar

import numpy as np

from igpt_keras.extras import require
from serving.client.addresses import is_rest
from serving.client.answers import VersionStatus
from serving.client.connection import TLS

Answer = TypeVar("Answer")
# Yields messages, is sent the response to each, and returns the answer.
Exchange = Generator[Any, Any, Answer]


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model on a server.

    Attributes:
        name: The server's name for it.
        version: The version; None for the newest.
        label: A label that the server has for a version, instead of `version`.
    """

    name: str
    version: int | None = None
    label: str | None = None


class Connection(Protocol):
    """A connection whose methods block until the response is there."""

    def send(self, message: Any, timeout: float | None) -> Any:
        """Sends a message and returns the response.

        Raises:
            Failure: There is none.
        """
        ...

    def close(self) -> None:
        """Closes the connection."""
        ...


class AsyncConnection(Protocol):
    """A connection whose methods are awaited."""

    async def send(self, message: Any, timeout: float | None) -> Any:
        """Sends a message and returns the response."""
        ...

    async def close(self) -> None:
        """Closes the connection."""
        ...


class Carrier(Protocol):
    """Says the requests of a client in one protocol, about one model."""

    def predict(
        self, signature_name: str, inputs: dict[str, np.ndarray], outputs: list[str]
    ) -> Exchange[dict[str, np.ndarray]]:
        """Calls a signature. No `outputs` stand for all."""
        ...

    def status(self) -> Exchange[list[VersionStatus]]:
        """Asks for the versions of the model."""
        ...

    def signatures(self) -> Exchange[dict[str, list[str]]]:
        """Asks for the names of the model's signatures, and of the inputs of each."""
        ...

    def complete_rows(self, settings: dict[str, Any]) -> Any:
        """Returns the message whose response is a stream of rows, for a connection that streams.

        Raises:
            InputError: The protocol has no such message.
        """
        ...

    def bytes_of_each(self, values: np.ndarray) -> np.ndarray:
        """Returns the size of each of B examples in a request: int [B]."""
        ...

    def connect(self) -> Connection:
        """Returns a connection for any number of threads."""
        ...

    def connect_asynchronously(self) -> AsyncConnection:
        """Returns a connection for the running event loop."""
        ...


def carrier_for(address: str, model: ModelSpec, tls: TLS | None, max_message_bytes: int) -> Carrier:
    """Returns the carrier of the protocol that an address stands for.

    Raises:
        InputError: The address is none, or does not go with `tls`.
        OSError: A file of `tls` cannot be read.
    """
    if is_rest(address):
        # The library takes longer to import than gRPC's, which most clients use.
        require("httpx2", "serve")
        from serving.client.rest import RestCarrier

        return RestCarrier(address, model, tls, max_message_bytes)
    from serving.client.grpc_carrier import GrpcCarrier

    return GrpcCarrier(address, model, tls, max_message_bytes)
