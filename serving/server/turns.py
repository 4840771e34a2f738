"""Whose turn it is when requests of several clients wait."""

import time
from collections.abc import Iterable, Sequence


class Turns:
    """Orders clients by the time for which they have waited without being served.

    With one request for each client, this is the order of arrival. A client with many requests
    goes behind all others after each batch. Clients on one host take the turns of one client.
    """

    def __init__(self):
        self._served: dict[str, float] = {}

    def first(self, waiting: Sequence[tuple[str, float]]) -> int:
        """Returns the index of the request whose turn it is.

        Args:
            waiting: The client, as gRPC names it, and the time of arrival of each request.
        """
        since: dict[str, float] = {}
        for client, arrived in waiting:
            for name in _names(client):
                start = max(arrived, self._served.get(name, arrived))
                since[name] = min(start, since.get(name, start))

        def key(index: int) -> tuple[float, ...]:
            client, arrived = waiting[index]
            return *(since[name] for name in _names(client)), arrived

        return min(range(len(waiting)), key=key)

    def served(self, clients: Iterable[str], waiting: Iterable[str]) -> None:
        """Notes that requests of `clients` have just been served, while others are `waiting`."""
        now = time.monotonic()
        new = {name: now for client in clients for name in _names(client)}
        names = {name for client in waiting for name in _names(client)}
        known = {**self._served, **new}
        self._served = {name: known[name] for name in names & known.keys()}


def _names(client: str) -> tuple[str, str]:
    """The host and the connection of a client such as "ipv4:127.0.0.1:50000"."""
    return client.rpartition(":")[0], client
