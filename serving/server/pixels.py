"""The pixels of the images in requests, and how many of them a server takes at a time.

Decoding takes time and memory by the pixel, and a file of a few kilobytes may hold millions.
"""

import collections
import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from igpt_keras.errors import InputError
from serving.image_headers import declared_pixels
from serving.server.errors import RequestError, invalid
from serving.transport import MAX_REQUEST_PIXELS

# Sixteen of the largest requests.
MAX_PIXELS_IN_FLIGHT = 1 << 29


def pixels_of(inputs: Mapping[str, np.ndarray], *, examples: bool = False) -> int:
    """Returns the pixels that the images in some inputs declare, counting every copy of an image.

    Args:
        inputs: Arrays by name; all strings (bytes in an object array) that begin as image
            files do are images.
        examples: Whether strings are serialized `tf.Example`s, of which every value counts.

    Raises:
        RequestError: INVALID_ARGUMENT, a string is no `tf.Example`.
    """
    contents = [
        content
        for values in inputs.values()
        if values.dtype == object
        for content in values.reshape(-1).tolist()
    ]
    if examples:
        contents = [value for content in contents for value in _values(content)]
    # Requests for several completions repeat their images, and a few bytes may stand for many.
    copies = collections.Counter(contents)
    return sum(count * declared_pixels(content) for content, count in copies.items())


def _values(content: bytes) -> Iterable[bytes]:
    """All strings in a serialized `tf.Example`."""
    try:
        example = tf.train.Example.FromString(content)
    except DecodeError:
        raise invalid("Could not parse example input") from None
    for feature in example.features.feature.values():
        yield from feature.bytes_list.value


class PixelBudget:
    """Limits the pixels of one request, and of all that are being answered.

    A client never holds more pixels than it leaves free, so that however many a few clients
    send, the small request of another finds room.

    Args:
        max_request_pixels: Most pixels of a request.
        max_pixels_in_flight: Most pixels of all requests together; at least twice as many.

    Attributes:
        in_flight: The pixels of the requests that are being answered.
        refused: How many requests each of the two limits has refused, by its name.

    Raises:
        InputError: A limit is out of range.
    """

    def __init__(
        self,
        max_request_pixels: int = MAX_REQUEST_PIXELS,
        max_pixels_in_flight: int = MAX_PIXELS_IN_FLIGHT,
    ):
        if max_request_pixels < 1:
            raise InputError(f"max_request_pixels must be at least 1, got {max_request_pixels}")
        if max_pixels_in_flight < 2 * max_request_pixels:
            raise InputError(
                "max_pixels_in_flight must be at least twice max_request_pixels "
                f"({max_request_pixels}), got {max_pixels_in_flight}"
            )
        self.max_request_pixels = max_request_pixels
        self._max_pixels_in_flight = max_pixels_in_flight
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        self.in_flight = 0
        self.refused = {"max_request_pixels": 0, "max_pixels_in_flight": 0}

    @contextlib.contextmanager
    def hold(self, pixels: int, client: str) -> Iterator[None]:
        """Counts the pixels of a client's request until the context ends.

        Raises:
            RequestError: RESOURCE_EXHAUSTED, they are too many.
        """
        with self._lock:
            self._check(pixels, client)
            self._add(pixels, client)
        try:
            yield
        finally:
            with self._lock:
                self._add(-pixels, client)

    def _add(self, pixels: int, client: str) -> None:
        self.in_flight += pixels
        self._held[client] = self._held.get(client, 0) + pixels
        if not self._held[client]:
            del self._held[client]

    def _check(self, pixels: int, client: str) -> None:
        if pixels > self.max_request_pixels:
            self._refuse(
                "max_request_pixels",
                f"the images of a request must declare at most {self.max_request_pixels} pixels "
                f"together, got {pixels}",
            )
        held = self._held.get(client, 0)
        free = self._max_pixels_in_flight - self.in_flight - pixels
        if pixels and held + pixels > free:
            self._refuse(
                "max_pixels_in_flight",
                f"the requests in flight declare {self.in_flight} of at most "
                f"{self._max_pixels_in_flight} pixels, {held} of them this client's; "
                f"there is no room for {pixels} more",
            )

    def _refuse(self, limit: str, message: str) -> None:
        self.refused[limit] += 1
        raise RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
