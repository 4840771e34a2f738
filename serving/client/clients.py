"""The two clients: one waits for answers, one is awaited."""

import abc
import asyncio
import functools
import random
import time
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.sampling.requests import Completions
from serving.client.connection import TLS, Attempts, Deadline, RetryPolicy
from serving.client.errors import serving_error
from serving.client.images import Images
from serving.client.queries import Classifications, Query, Scores, Served, VersionStatus
from serving.transport import MAX_MESSAGE_BYTES


class BaseClient(abc.ABC):
    """What can be asked of a server: ours, or TensorFlow Serving.

    Images are a sequence of paths, encoded files (bytes), uint8 arrays [h, w, 3] and PIL
    images, or one uint8 array [B, h, w, 3]. The server crops and scales them to its model's
    size. Methods that ask the server raise:

        FileNotFoundError: no such image file.
        InputError: an argument that cannot be used.
        ServingError: the server refused the request, or was not reached.

    Args:
        address: "host:port".
        model_name: the name under which the server has the model.
        timeout: seconds that a method may take, with all its requests and retries; None for no
            limit. The server is told what is left of them.
        version: of the model; None for the newest.
        version_label: a label that the server has for a version, instead of `version`.
        tls: for an encrypted connection; None for one that is not.
        retries: when a request that met UNAVAILABLE is sent again.
        batch_size: examples in a request at most; no more than the server's `max_batch_size`.
        max_message_bytes: of a request or a response; no more than the server's limit.
    """

    def __init__(
        self,
        address: str,
        model_name: str = "igpt",
        timeout: float | None = 60.0,
        *,
        version: int | None = None,
        version_label: str | None = None,
        tls: TLS | None = None,
        retries: RetryPolicy | None = None,
        batch_size: int = 32,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ):
        if version is not None and version_label is not None:
            raise InputError(f"version or version_label, got {version} and {version_label!r}")
        for name, value in (("batch_size", batch_size), ("max_message_bytes", max_message_bytes)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if timeout is not None and not timeout > 0:
            raise InputError(f"timeout must be above 0, or None, got {timeout}")
        self.address = address
        self.timeout = timeout
        self._served = Served(
            model_name, version, version_label, batch_size, request_bytes=max_message_bytes // 2
        )
        self._retries = RetryPolicy() if retries is None else retries
        self._pauses = random.Random(self._retries.seed)
        self._credentials = None if tls is None else tls.credentials()
        self._options = [
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_receive_message_length", max_message_bytes),
            # A server that comes back is found within the pauses between attempts.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            *([] if tls is None else tls.channel_options()),
        ]

    def complete(
        self,
        images: Images,
        keep_rows: int,
        num_completions: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
    ) -> Completions:
        """`ImageGPT.generate` of the served model, for images of any size.

        Args: as `ImageGPT.generate`, with `images` as above.
        """
        return self._ask(
            self._served.complete(
                images, keep_rows, num_completions, temperature, top_k, top_p, seed
            )
        )

    def sample(
        self,
        num_samples: int,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Completions:
        """`ImageGPT.sample` of the served model. Arguments as there."""
        return self._ask(self._served.sample(num_samples, temperature, top_k, top_p, seed))

    def classify(self, images: Images) -> Classifications:
        """The served classifier's classes of images."""
        return self._ask(self._served.classify(images))

    def features(self, images: Images) -> np.ndarray:
        """The features of images, of the layer chosen at export: float32 [B, d]."""
        return self._ask(self._served.features(images))

    def score(self, images: Images) -> Scores:
        """How likely the served model finds images, cropped and scaled to its size."""
        return self._ask(self._served.score(images))

    def predict(
        self, signature_name: str, inputs: dict[str, Any], outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Any signature by its name.

        Args:
            signature_name: of the signature.
            inputs: arrays [B, …] by name, of the signature's dtypes; strings as bytes.
            outputs: names of those wanted; all if empty.

        Returns: arrays [B, …] by name.
        """
        return self._ask(self._served.predict(signature_name, inputs, outputs))

    def status(self) -> list[VersionStatus]:
        """The versions that the server has of the model."""
        return self._ask(self._served.status())

    def signatures(self) -> list[str]:
        """The names of the served model's signatures."""
        return self._ask(self._served.signatures())

    @abc.abstractmethod
    def _ask(self, query: Query) -> Any:
        """The query's result."""

    def _connect(self, insecure_channel, secure_channel):
        if self._credentials is None:
            return insecure_channel(self.address, self._options)
        return secure_channel(self.address, self._credentials, self._options)

    def _attempts(self, deadline: Deadline) -> Attempts:
        return Attempts(self._retries, deadline, self._pauses)

    def _error(self, error: grpc.RpcError, query: Query) -> Exception:
        details = error.details() or ""
        return serving_error(self.address, error.code(), details, query.signature_name)


class Client(BaseClient):
    """Asks a server, and waits for what it answers. May be shared by threads.

    >>> with Client("localhost:8500") as client:
    ...     completions = client.complete(["cat.png"], keep_rows=16, num_completions=4)

    Arguments and methods: as `BaseClient`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._channel = self._connect(grpc.insecure_channel, grpc.secure_channel)

    def _ask(self, query):
        deadline = Deadline(self.timeout)
        return query.read([self._send(query, request, deadline) for request in query.requests])

    def _send(self, query, request, deadline):
        call = query.method.connect(self._channel)
        attempts = self._attempts(deadline)
        while True:
            try:
                return call(request, timeout=deadline.remaining())
            except grpc.RpcError as error:
                pause = attempts.pause_after(error.code())
                if pause is None:
                    raise self._error(error, query) from None
            time.sleep(pause)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class AsyncClient(BaseClient):
    """Asks a server, and lets others run until it answers; every method is awaited.

    >>> async with AsyncClient("localhost:8500") as client:
    ...     completions = await client.complete(["cat.png"], keep_rows=16, num_completions=4)

    It belongs to the event loop of its first request. A task that is cancelled cancels its
    request on the server. Arguments and methods: as `BaseClient`.
    """

    @functools.cached_property
    def _channel(self) -> grpc.aio.Channel:
        return self._connect(grpc.aio.insecure_channel, grpc.aio.secure_channel)

    async def _ask(self, query):
        deadline = Deadline(self.timeout)
        return query.read(
            [await self._send(query, request, deadline) for request in query.requests]
        )

    async def _send(self, query, request, deadline):
        call = query.method.connect(self._channel)
        attempts = self._attempts(deadline)
        while True:
            try:
                return await call(request, timeout=deadline.remaining())
            except grpc.RpcError as error:
                pause = attempts.pause_after(error.code())
                if pause is None:
                    raise self._error(error, query) from None
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *exception) -> None:
        await self.close()
