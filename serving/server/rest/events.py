"""A request for completions row by row in JSON, and its answer as server-sent events."""

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from igpt_keras.sampling.samplers import Categorical
from serving.server.errors import RequestError, invalid
from serving.server.monitoring import RequestLog
from serving.server.rest.json_reading import FLOAT_MAX, read_object, shown
from serving.server.rest.values import decode_base64, is_base64
from serving.server.row_streams import Event, Row, RowsRequest, Start

EVENT_STREAM = "text/event-stream"
SAMPLER_NAMES = tuple(field.name for field in Categorical.parameters())
CONDITION_NAMES = ("labels", "guidance_scale")
NAMES = ("image", "keep_rows", "known", "num_completions", *SAMPLER_NAMES, "seed", *CONDITION_NAMES)
# Nats with more decimals than float32 has are noise.
DECIMALS = 6


def rows_request(body: bytes) -> RowsRequest:
    """Reads the body of a request.

    Raises:
        RequestError: INVALID_ARGUMENT, it is no JSON, or an argument cannot be used.
    """
    members = read_object(body)
    for name in members:
        if name not in NAMES:
            raise invalid(f"{shown(name)} is no argument of a stream; it has {', '.join(NAMES)}")
    if "image" not in members:
        raise invalid('image must be given: {"b64": "…"}, or null to sample from nothing')
    image, known = members.pop("image"), members.pop("known", None)
    if image is not None and not is_base64(image):
        raise invalid(f'image must be {{"b64": "…"}} or null, got {shown(image)}')
    settings = {name: members.pop(name) for name in SAMPLER_NAMES if name in members}
    condition = _condition({n: members.pop(n) for n in CONDITION_NAMES if n in members})
    for name, value in members.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise invalid(f"{name} must be an integer, got {shown(value)}")
    return RowsRequest(
        image=None if image is None else decode_base64(image),
        known=None if known is None else _mask(known),
        sampler=_sampler(settings),
        **members,
        **condition,
    )


def event_text(event: Event, log: RequestLog) -> bytes:
    """Writes an event of `Servable.stream`.

    Args:
        event: The event.
        log: The request's, which has the model and its version.
    """
    if isinstance(event, Start):
        names = {"model": log.model, "version": log.version}
        sizes = {"image_size": event.image_size, "num_completions": event.num_completions}
        pixels = None if event.pixels is None else _base64(event.pixels)
        return _event("start", {**names, **sizes, "pixels": pixels})
    if isinstance(event, Row):
        entropies = _numbers(event.entropies)
        row = {"row": event.row, "pixels": _base64(event.pixels), "entropies": entropies}
        return _event("row", row)
    return _event("done", {name: _numbers(values) for name, values in event._asdict().items()})


def error_text(error: RequestError) -> bytes:
    """Writes the event that ends an answer which has begun."""
    return _event("error", {"error": str(error), "code": error.code.name})


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    # In ASCII and in one line, whatever a model is called.
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n".encode()


def _base64(pixels: np.ndarray) -> str:
    return base64.b64encode(pixels.tobytes()).decode()


def _numbers(values: np.ndarray) -> list:
    """Returns numbers for JSON, which has no NaN and no infinity, in lists."""
    if values.ndim > 1:
        return [_numbers(part) for part in values]
    return [round(x, DECIMALS) if math.isfinite(x) else None for x in values.tolist()]


def _mask(known: Any) -> np.ndarray:
    """Reads the known pixels: rows of booleans of one length."""
    rows = known if isinstance(known, list) else []
    lengths = {len(row) if isinstance(row, list) else -1 for row in rows}
    if len(lengths) != 1 or not all(isinstance(pixel, bool) for row in rows for pixel in row):
        raise invalid(f"known must be a list of rows of true and false, got {shown(known)}")
    return np.array(rows, bool)


def _condition(members: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the class and the guidance scale that are given."""
    labels, scale = members.get("labels"), members.get("guidance_scale", 1.0)
    if isinstance(labels, bool) or not isinstance(labels, int | str | None):
        raise invalid(f"labels must be the number or the name of a class, got {shown(labels)}")
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not is_number or not 0 <= scale <= FLOAT_MAX:
        raise invalid(f"guidance_scale must be a finite number >= 0, got {shown(scale)}")
    return {"labels": labels, "guidance_scale": scale}


def _sampler(settings: Mapping[str, Any]) -> Categorical:
    for field in Categorical.parameters():
        value = settings.get(field.name, field.default)
        kinds = int if field.type is int else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not field.allows(value):
            raise invalid(f"{field.name} must be {field.requirement}, got {shown(value)}")
    return Categorical(**settings)
