"""Rows of completions as they come, which `igpt serve` adds to TensorFlow Serving's REST API.

They come as server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import base64
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.pictures.completions import known_rows
from igpt_keras.sampling.requests import (
    check_keep_rows,
    check_positive,
    is_integer,
)
from igpt_keras.sampling.samplers import Categorical
from serving.client.answers import PartialCompletions
from serving.client.errors import Failure
from serving.client.images import AnyImage, encoded_images
from serving.client.rest_json import parsed, reading

GRAY = 128
# A carriage return at the end of what has come may be the first half of a line's end.
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


def known_mask(image: AnyImage | None, keep_rows: int | None, known: Any) -> np.ndarray | None:
    """Checks what is said about the known pixels; returns bool [R, R], or None without a mask."""
    given = sum(value is not None for value in (keep_rows, known))
    if given != (image is not None):
        needed = "no image goes with neither" if image is None else "an image needs one"
        raise InputError(
            f"{needed} of keep_rows and known, got keep_rows {keep_rows} and known "
            f"{known if known is None else np.shape(known)}"
        )
    if keep_rows is not None:
        check_keep_rows(keep_rows)
    if known is None:
        return None
    mask = np.asarray(known)
    if mask.dtype != bool or mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
        raise InputError(
            "known must be a mask bool [R, R] with the model's image size R, "
            f"got {mask.dtype} {list(mask.shape)}"
        )
    return mask


def row_settings(
    image: AnyImage | None,
    keep_rows: int | None,
    known: np.ndarray | None,
    num_completions: int,
    sampler: Categorical,
    seed: int,
) -> dict[str, Any]:
    """Returns the body of a request for rows."""
    check_positive("num_completions", num_completions)
    if not is_integer(seed) or seed < 0:
        raise InputError(f"seed must be an integer of at least 0, got {seed}")
    settings: dict[str, Any] = {
        "image": None,
        "num_completions": int(num_completions),
        "temperature": float(sampler.temperature),
        "top_k": int(sampler.top_k),
        "top_p": float(sampler.top_p),
        "seed": int(seed),
    }
    if image is not None:
        (content,) = encoded_images([image])
        settings["image"] = {"b64": base64.b64encode(content).decode()}
    if keep_rows is not None:
        settings["keep_rows"] = int(keep_rows)
    if known is not None:
        settings["known"] = known.tolist()
    return settings


class EventReader:
    """Reads server-sent events from the parts of an answer.

    Args:
        max_bytes: The largest event.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._unread = b""
        self._name = ""
        self._data: list[bytes] = []

    def read(self, part: bytes) -> Iterator[tuple[str, bytes]]:
        """Yields the name and the data of each event that a part completes."""
        *lines, self._unread = _LINE_END.split(self._unread + part)
        for line in lines:
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"event":
                self._name = value.decode(errors="replace")
            elif field == b"data":
                self._data.append(value)
            elif not line:
                if self._data:
                    yield self._name, b"\n".join(self._data)
                self._name, self._data = "", []
            self._check_size()
        self._check_size()

    def _check_size(self) -> None:
        if len(self._unread) + sum(map(len, self._data)) > self._max_bytes:
            raise Failure(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"an event of more bytes than max_message_bytes {self._max_bytes}",
            )


class RowsReader:
    """Makes completions of the events of an answer.

    Args:
        keep_rows: The number of rows that the request keeps, or None.
        known: The request's mask bool [R, R], or None.
        num_completions: The request's number N.
        max_message_bytes: The largest event, and the most bytes of N completions.
    """

    def __init__(
        self,
        keep_rows: int | None,
        known: np.ndarray | None,
        num_completions: int,
        max_message_bytes: int,
    ):
        self._keep_rows = keep_rows or 0
        self._known = known
        self._num_completions = num_completions
        self._max_message_bytes = max_message_bytes
        self._events = EventReader(max_message_bytes)
        self._newest: PartialCompletions | None = None

    def read(self, part: bytes) -> Iterator[PartialCompletions]:
        """Yields the completions after each event that a part completes."""
        readers = {"start": self._start, "row": self._row, "done": self._done}
        for name, data in self._events.read(part):
            if name == "error":
                with reading(data):
                    error = parsed(data)
                    failure = Failure(grpc.StatusCode[error["code"]], error["error"])
                raise failure
            if name in readers:
                with reading(data):
                    self._newest = readers[name](parsed(data))
                yield self._newest

    def end(self) -> None:
        """Raises `Failure` if the answer ended before the completions did."""
        newest = self._newest
        if newest is None or newest.log_likelihood is None:
            rows = 0 if newest is None else newest.num_rows
            raise Failure(grpc.StatusCode.UNAVAILABLE, f"the answer ended after {rows} rows")

    def _start(self, data: dict[str, Any]) -> PartialCompletions:
        size = data["image_size"]
        shape = (self._num_completions, size, size, 3)
        if not 0 < np.prod(shape, dtype=float) <= self._max_message_bytes:
            raise ValueError(f"image_size {size}")
        known = known_rows(size, self._keep_rows) if self._known is None else self._known
        images = np.full(shape, GRAY, np.uint8)
        if data["pixels"] is not None:
            images[:, known] = _pixels(data["pixels"], (size, size, 3))[known]
        complete = known.all(axis=1)
        return PartialCompletions(
            num_rows=size if complete.all() else int(complete.argmin()),
            images=images,
            entropy=np.full(shape[:-1], np.nan, np.float32),
        )

    def _row(self, data: dict[str, Any]) -> PartialCompletions:
        newest = self._after_start()
        images, entropy, row = newest.images.copy(), newest.entropy.copy(), data["row"]
        if not newest.num_rows <= row < images.shape[1]:
            raise ValueError(f"row {row} after {newest.num_rows} rows")
        count, size = images.shape[:2]
        images[:, row] = _pixels(data["pixels"], (count, size, 3))
        entropy[:, row] = np.array(data["entropies"], np.float32).reshape(count, size)
        return dataclasses.replace(newest, num_rows=row + 1, images=images, entropy=entropy)

    def _done(self, data: dict[str, Any]) -> PartialCompletions:
        log_likelihood, bits_per_pixel = (
            np.array(data[name], np.float32).reshape(self._num_completions)
            for name in ("log_likelihood", "bits_per_pixel")
        )
        newest = self._after_start()
        return dataclasses.replace(
            newest,
            num_rows=newest.images.shape[1],
            log_likelihood=log_likelihood,
            bits_per_pixel=bits_per_pixel,
        )

    def _after_start(self) -> PartialCompletions:
        if self._newest is None:
            raise ValueError("no event start before it")
        return self._newest


def _pixels(text: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(shape)
