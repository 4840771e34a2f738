"""Completions of one image that come row by row.

Shapes: N completions, R the side of the image.
"""

import contextlib
import dataclasses
import math
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
import numpy as np
import tensorflow as tf

from igpt_keras.errors import InputError
from igpt_keras.pictures.completions import known_rows
from igpt_keras.sampling.requests import (
    NO_CLASS,
    check_guidance_scale,
    class_numbers,
    completion_seeds,
    is_integer,
)
from igpt_keras.sampling.samplers import Categorical
from igpt_keras.tokenizers.known_pixels import fill_unknown
from serving.row_functions import BEGIN, CONDITION, DECODE_ROW, ROW_FUNCTIONS, VIEW
from serving.server.batching import Call
from serving.server.errors import RequestError, cancelled, invalid
from serving.server.saved_model import run_function
from serving.server.tensorflow_internals import CancellationManager

MAX_COMPLETIONS = 16
# Bytes that the states of all completions under way may take; sixteen of iGPT-S take 1.6 GB.
MAX_STATE_BYTES = 1 << 32
# The largest seed; they travel as int64.
MAX_SEED = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class RowsRequest:
    """What to complete.

    Attributes:
        image: The content of an image file; None to sample from nothing.
        keep_rows: The number of known rows, 0…R. With an image, either this or `known` is given.
        known: bool [R, R], the known pixels.
        num_completions: N, at most `MAX_COMPLETIONS`; 0 only shows what the model sees.
        sampler: How tokens are drawn.
        seed: Determines the completions, as in `ImageGPT.generate`.
        labels: The class, by number or name, for a class-conditional model; None for any.
        guidance_scale: How much the class counts, as in `ImageGPT.generate`.
    """

    image: bytes | None
    keep_rows: int | None = None
    known: np.ndarray | None = None
    num_completions: int = 1
    sampler: Categorical = Categorical()
    seed: int = 0
    labels: int | str | None = None
    guidance_scale: float = 1.0


class Start(NamedTuple):
    """The first event."""

    image_size: int
    num_completions: int
    pixels: np.ndarray | None  # uint8 [R, R, 3], whose known ones come back; None without image


class Row(NamedTuple):
    """A row, once it is final."""

    row: int
    pixels: np.ndarray  # uint8 [N, R, 3]
    entropies: np.ndarray  # float32 [N, R], nats


class Done(NamedTuple):
    """The last event."""

    log_likelihood: np.ndarray  # float32 [N], nats, of the sampled tokens
    bits_per_pixel: np.ndarray  # float32 [N], for each unknown pixel; NaN without one


Event = Start | Row | Done
Events = Generator[Event, None, None]


class StateBudget:
    """Limits the memory of the states of all completions under way.

    Args:
        max_bytes: The limit.

    Attributes:
        in_flight: The bytes that are held.
    """

    def __init__(self, max_bytes: int = MAX_STATE_BYTES):
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self.in_flight = 0

    @contextlib.contextmanager
    def hold(self, count: int, each: int) -> Iterator[None]:
        """Counts completions until the context ends.

        Args:
            count: The number of completions.
            each: Bytes of the state of one.

        Raises:
            RequestError: RESOURCE_EXHAUSTED, they are too many.
        """
        with self._lock:
            if self.in_flight + count * each > self._max_bytes:
                raise RequestError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"completions under way hold {self.in_flight:,} of at most "
                    f"{self._max_bytes:,} bytes; there is no room for num_completions={count}, "
                    f"which take {each:,} bytes each",
                )
            self.in_flight += count * each
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= count * each


class RowStreams:
    """Completes images by the row functions of an export (`serving.row_functions`).

    Args:
        functions: The functions by name.
        budget: Limits the memory of what is under way.
        label_names: The names of the classes that requests may ask for.

    Attributes:
        image_size: R.

    Raises:
        RequestError: A function fails.
    """

    def __init__(
        self, functions: Mapping[str, Any], budget: StateBudget, label_names: Sequence[str] = ()
    ):
        self._functions = functions
        self._budget = budget
        self._label_names = label_names
        self._is_conditional = functions[BEGIN].structured_input_signature[1].keys() >= CONDITION
        _, specs = functions[DECODE_ROW].structured_input_signature
        self._state_names = specs.keys() - ROW_FUNCTIONS[DECODE_ROW]
        self.image_size = int(specs["known"].shape[0])
        # Of one completion by whether it has guidance, which takes a second sequence.
        self._state_bytes = {False: self._warm_up(1.0)}
        if self._is_conditional:
            self._state_bytes[True] = self._warm_up(2.0)

    def run(self, request: RowsRequest, call: Call) -> Events:
        """Yields a start, each row from the first with an unknown pixel on, and an end.

        Only what the reader asks for is decoded. A call that is abandoned stops within a step.

        Raises:
            RequestError: The request cannot be answered, or its call was abandoned.
        """
        failure = None
        try:
            yield from self._events(request, call)
        except RequestError as error:
            # The frames in its traceback hold a state, until garbage is collected.
            failure = RequestError(error.code, str(error))
        if failure is not None:
            raise failure

    def _events(self, request: RowsRequest, call: Call) -> Iterator[Event]:
        count = request.num_completions
        if not is_integer(count) or not 0 <= count <= MAX_COMPLETIONS:
            raise invalid(
                f"num_completions must be an integer from 0 to {MAX_COMPLETIONS}, got {count}"
            )
        known, seeds = self._known(request), _seeds(request)
        condition = self._condition(request)
        cancellation = CancellationManager()
        call.when_abandoned(cancellation.start_cancel)

        def run(name: str, **tensors: tf.Tensor) -> dict[str, tf.Tensor]:
            if call.abandoned:
                raise cancelled()
            return run_function(self._functions[name], tensors, cancellation)

        with self._budget.hold(count, self._state_bytes[request.guidance_scale != 1]):
            image = pixels = np.zeros([*known.shape, 3], np.uint8)
            if request.image is not None:
                viewed = run(VIEW, image_bytes=tf.constant(request.image))
                image, pixels = viewed["image"].numpy(), viewed["pixels"].numpy()
            yield Start(self.image_size, count, None if request.image is None else pixels)
            if count:
                (filled,) = fill_unknown(image[None], known[None])
                settings = {"known": tf.constant(known)}
                numbers = {"num_completions": tf.constant(count), **condition}
                state = run(BEGIN, image=tf.constant(filled), **settings, **numbers)
                settings["seed"] = tf.constant(seeds)
                for name, values in request.sampler.arrays(count).items():
                    settings[name] = tf.constant(values)
                yield from self._rows(state, settings, pixels, run)

    def _rows(self, state, settings, given: np.ndarray, run) -> Iterator[Row | Done]:
        """Decodes from a state on; known pixels are those of `given`, uint8 [R, R, 3]."""
        known = settings["known"].numpy()
        num_unknown = np.sum(~known)
        log_likelihood = np.zeros(len(settings["seed"]), np.float32)
        row = _first_true(~known.all(axis=1))
        while row < self.image_size:
            outputs = run(DECODE_ROW, **state, **settings)
            state = {name: outputs[name] for name in self._state_names}
            log_likelihood = outputs["log_likelihood"].numpy()
            pixels, entropies = outputs["pixels"].numpy(), outputs["entropy"].numpy()
            first = int(outputs["num_rows"]) - pixels.shape[1]
            while row < int(outputs["num_rows"]):
                sampled = pixels[:, row - first]
                shown = np.where(known[row, :, None], given[row], sampled)
                yield Row(row, shown, entropies[:, row - first])
                row += 1
        with np.errstate(invalid="ignore"):
            yield Done(log_likelihood, -log_likelihood / np.float32(num_unknown * math.log(2)))

    def _known(self, request: RowsRequest) -> np.ndarray:
        """Returns the known pixels: bool [R, R]."""
        size = self.image_size
        keep_rows, known = request.keep_rows, request.known
        given = [name for name in ("keep_rows", "known") if getattr(request, name) is not None]
        if request.image is None:
            if given:
                raise invalid(f"{given[0]} needs an image, got image=null")
            return np.zeros([size, size], bool)
        if len(given) != 1:
            raise invalid(
                "exactly one of keep_rows and known must be given, "
                f"got {'both' if given else 'neither'}"
            )
        if known is None:
            assert keep_rows is not None
            if not is_integer(keep_rows) or not 0 <= keep_rows <= size:
                raise invalid(f"keep_rows must lie in 0…{size} (the image height), got {keep_rows}")
            return known_rows(size, int(keep_rows))
        if known.dtype != bool or known.shape != (size, size):
            raise invalid(
                f"known must be boolean of shape [{size}, {size}], "
                f"got {known.dtype} of shape {list(known.shape)}"
            )
        return known

    def _condition(self, request: RowsRequest) -> dict[str, tf.Tensor]:
        """Returns the inputs of `begin` that say what class is asked for."""
        labels, guidance_scale = request.labels, request.guidance_scale
        try:
            check_guidance_scale(guidance_scale, labels)
            if not self._is_conditional:
                if labels is not None:
                    raise InputError(f"labels needs a class-conditional model, got {labels!r}")
                return {}
            number = NO_CLASS
            if labels is not None:
                (number,) = class_numbers([labels], self._label_names)
        except InputError as error:
            raise invalid(str(error)) from None
        return _condition_tensors(number, guidance_scale)

    def _warm_up(self, guidance_scale: float) -> int:
        """Runs every function once; returns the bytes of the state of one completion."""
        size, outputs = self.image_size, {}
        inputs = {
            "image_bytes": tf.io.encode_png(np.zeros([1, 1, 3], np.uint8)),
            "known": tf.repeat(tf.range(size)[:, None] < size - 1, size, axis=1),
            "num_completions": tf.constant(1),
            "seed": tf.zeros([1], tf.int64),
            **{name: tf.constant(values) for name, values in Categorical().arrays(1).items()},
            **_condition_tensors(0, guidance_scale),
        }
        for function in self._functions.values():
            names = function.structured_input_signature[1]
            tensors = {name: (inputs | outputs)[name] for name in names}
            outputs = run_function(function, tensors, CancellationManager())
        return sum(
            outputs[name].dtype.size * int(tf.size(outputs[name])) for name in self._state_names
        )


def _condition_tensors(label: int, guidance_scale: float) -> dict[str, tf.Tensor]:
    """Returns the inputs `CONDITION`."""
    return {
        "labels": tf.constant(label, tf.int32),
        "guidance_scale": tf.constant(guidance_scale, tf.float32),
    }


def _first_true(values: np.ndarray) -> int:
    """Returns the index of the first true value; their number if none is true."""
    return int(values.argmax()) if values.any() else len(values)


def _seeds(request: RowsRequest) -> np.ndarray:
    """Returns the seed of each completion: int64 [N]."""
    seed = request.seed
    if not is_integer(seed) or not 0 <= seed <= MAX_SEED:
        raise invalid(f"seed must be an integer from 0 to {MAX_SEED}, got {seed}")
    return completion_seeds([seed], 1, request.num_completions)[0]
