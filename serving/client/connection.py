"""How to connect to a server: TLS, deadlines and retries."""

import dataclasses
import os
import random
import time

import grpc

from igpt_keras.errors import InputError
from serving.client.errors import Failure


@dataclasses.dataclass(frozen=True)
class TLS:
    """Settings of an encrypted connection. All files are PEM.

    Attributes:
        root_certificates: File of the trusted certificate authorities; None for the system's.
        client_certificate: File of the client's own certificate, if the server asks for one.
        client_key: File of its private key.
        server_name: The name in the server's certificate, if it differs from the address.

    Raises:
        InputError: There is a certificate without a key, or a key without a certificate.

    Example:
        ```python
        from serving.client import TLS, Client

        client = Client("images.example:8500", tls=TLS("ca.pem"))
        ```
    """

    root_certificates: str | os.PathLike | None = None
    client_certificate: str | os.PathLike | None = None
    client_key: str | os.PathLike | None = None
    server_name: str | None = None

    def __post_init__(self):
        if (self.client_certificate is None) != (self.client_key is None):
            raise InputError(
                "client_certificate and client_key go together, got "
                f"{self.client_certificate} and {self.client_key}"
            )


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """When to repeat a request that met UNAVAILABLE; requests with another status are not repeated.

    The pause before attempt k + 1 is uniformly random in 0…min(`maximum_pause`,
    `initial_pause` · `factor`^(k - 1)), so that clients that failed together do not return
    together.

    Attributes:
        attempts: Most attempts, the first included.
        initial_pause: Limit of the first pause in seconds.
        factor: Growth of the limit, at least 1.
        maximum_pause: Highest limit in seconds.
        seed: Seed of the pauses; None for different ones each time.

    Raises:
        InputError: A value is out of range.
    """

    attempts: int = 5
    initial_pause: float = 0.2
    factor: float = 2.0
    maximum_pause: float = 5.0
    seed: int | None = None

    def __post_init__(self):
        if self.attempts < 1:
            raise InputError(f"attempts must be at least 1, got {self.attempts}")
        if not (self.initial_pause >= 0 and self.factor >= 1 and self.maximum_pause >= 0):
            raise InputError(f"pauses must be at least 0 and factor at least 1, got {self}")


class Deadline:
    """The time until which a client waits for an answer.

    Args:
        timeout: Seconds from now; None for no limit.
    """

    def __init__(self, timeout: float | None):
        self._end = None if timeout is None else time.monotonic() + timeout

    def remaining(self) -> float | None:
        """Returns the seconds left, at least 0; None for no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def allows(self, pause: float) -> bool:
        """Returns whether time is left after a pause of that many seconds."""
        remaining = self.remaining()
        return remaining is None or pause < remaining


class Attempts:
    """The attempts at one request.

    Args:
        policy: How many there may be, and the pauses between them.
        deadline: The time after which there is no further attempt.
        generator: The source of random pauses.
    """

    def __init__(self, policy: RetryPolicy, deadline: Deadline, generator: random.Random):
        self.policy = policy
        self.deadline = deadline
        self._generator = generator
        self._made = 0

    def pause_after(self, failure: Failure) -> float:
        """Returns the seconds to wait after an attempt that failed.

        Raises:
            Failure: That attempt was the last.
        """
        policy = self.policy
        limit = min(policy.maximum_pause, policy.initial_pause * policy.factor**self._made)
        self._made += 1
        if failure.code is not grpc.StatusCode.UNAVAILABLE or self._made == policy.attempts:
            raise failure
        pause = self._generator.uniform(0, limit)
        if not self.deadline.allows(pause):
            raise failure
        return pause
