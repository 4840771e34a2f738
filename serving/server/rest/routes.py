"""What the server answers, by path."""

import dataclasses
import re
from collections.abc import Awaitable, Callable

from serving.server.rest.exchanges import Exchange


@dataclasses.dataclass(frozen=True)
class Route:
    """A kind of request.

    Args:
        http_method: "GET", "HEAD" or "POST".
        path: Matches the whole path as the request has it, with its query.
        name: The name in the log and the metrics, such as "Predict".
        answer: Answers a request with `Exchange.reply`, or `Exchange.begin` and `send`. An error
            that it raises before is answered for it.
        logged: Whether a request that ends well is a line of the log.
    """

    http_method: str
    path: re.Pattern[str]
    name: str
    answer: Callable[[Exchange], Awaitable[None]]
    logged: bool = True
