"""How a server is reached: TLS, deadlines, and when a request is sent again."""

import dataclasses
import os
import pathlib
import random
import time

import grpc

from igpt_keras.errors import InputError


@dataclasses.dataclass(frozen=True)
class TLS:
    """An encrypted connection. All files are PEM.

    Attributes:
        root_certificates: file of the authorities that are trusted; None for the system's.
        client_certificate: file of the client's own certificate, where the server asks for one.
        client_key: file of its private key.
        server_name: the name in the server's certificate, where it is not that in the address.
    """

    root_certificates: str | os.PathLike | None = None
    client_certificate: str | os.PathLike | None = None
    client_key: str | os.PathLike | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC makes of the files.

        Raises:
            OSError: a file that cannot be read.
            InputError: a certificate without a key, or a key without a certificate.
        """
        if (self.client_certificate is None) != (self.client_key is None):
            raise InputError(
                "client_certificate and client_key go together, got "
                f"{self.client_certificate} and {self.client_key}"
            )
        return grpc.ssl_channel_credentials(
            *map(_read, (self.root_certificates, self.client_key, self.client_certificate))
        )

    def channel_options(self) -> list[tuple[str, str]]:
        if self.server_name is None:
            return []
        return [("grpc.ssl_target_name_override", self.server_name)]


def _read(path: str | os.PathLike | None) -> bytes | None:
    return None if path is None else pathlib.Path(path).read_bytes()


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """When a request that met UNAVAILABLE is sent again; no other status leads to that.

    The pause before attempt k + 1 is drawn evenly from 0…min(`maximum_pause`,
    `initial_pause` · `factor`^(k - 1)): clients that failed together do not come back together.

    Attributes:
        attempts: at most, the first included.
        initial_pause: seconds.
        factor: at least 1.
        maximum_pause: seconds.
        seed: of the pauses; None for other ones each time.
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
    """Until when an answer is of use.

    Args:
        timeout: seconds from now; None for no limit.
    """

    def __init__(self, timeout: float | None):
        self._end = None if timeout is None else time.monotonic() + timeout

    def remaining(self) -> float | None:
        """Seconds left, at least 0; None for no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def allows(self, pause: float) -> bool:
        """Whether there is time left after a pause of that many seconds."""
        remaining = self.remaining()
        return remaining is None or pause < remaining


class Attempts:
    """The attempts at one request.

    Args:
        policy: when there is another one.
        deadline: after which there is none.
        generator: of the pauses.
    """

    def __init__(self, policy: RetryPolicy, deadline: Deadline, generator: random.Random):
        self.policy = policy
        self.deadline = deadline
        self._generator = generator
        self._made = 0

    def pause_after(self, code: grpc.StatusCode) -> float | None:
        """Seconds to wait after an attempt that ended with `code`; None to give up."""
        policy = self.policy
        limit = min(policy.maximum_pause, policy.initial_pause * policy.factor**self._made)
        self._made += 1
        if code is not grpc.StatusCode.UNAVAILABLE or self._made == policy.attempts:
            return None
        pause = self._generator.uniform(0, limit)
        return pause if self.deadline.allows(pause) else None
