"""JSON as RapidJSON reads it for TensorFlow Serving, within limits."""

import json
import math
import re
from typing import Any

import numpy as np

from serving.server.errors import RequestError, invalid
from serving.server.rest.json_writing import decimals

# Numbers, strings, lists, objects and their members in one text. Each takes up to 80 bytes, and
# Python does nothing else while it reads them, which takes some tenths of a second for so many.
MAX_VALUES = 1 << 19
# Characters of a value that an error repeats.
SHOWN_LENGTH = 600
FLOAT_MAX = float(np.finfo(np.float32).max)
BOM = b"\xef\xbb\xbf"
SPACES = b" \t\r\n"
# Python's errors and RapidJSON's (error/en.h).
REASONS = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Extra data": "The document root must not be followed by other values.",
    # Since Python 3.13.
    "Illegal trailing comma before end of array": "Invalid value.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
}
NO_COMMA = "Missing a comma or closing bracket after a value."
NO_COMMA_IN = {
    "[": "Missing a comma or ']' after an array element.",
    "{": "Missing a comma or '}' after an object member.",
}
# Up to here, an error tells lists and objects apart.
MAX_SEARCH = 1 << 16
STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class Named(float):
    """A number that is written as NaN, Infinity or -Infinity."""


def read_object(text: bytes) -> dict[str, Any]:
    """Reads a JSON object.

    Bytes that are not UTF-8 become surrogates, as with Python's "surrogateescape". If several
    members have one name, the first counts. Integers of any size remain integers. NaN and
    Infinity are `Named`; a float of infinity that is not is too large for a double.

    Raises:
        RequestError: INVALID_ARGUMENT, the text is not a JSON object, or too deep or too large.
    """
    if not text:
        raise invalid("JSON Parse error: The document is empty")
    text = text.removeprefix(BOM)
    if not text.strip(SPACES):
        raise _parse_error("The document is empty.", len(text))
    values = sum(map(text.count, (b",", b":", b"[", b"{")))
    if values > MAX_VALUES:
        raise invalid(f"a JSON request must hold at most {MAX_VALUES} values, got {values}")
    decoded = text.decode("utf-8", "surrogateescape")
    try:
        value = json.loads(decoded, object_pairs_hook=_first_members, parse_constant=Named)
    except json.JSONDecodeError as error:
        offset = len(encode(decoded[: error.pos]))
        raise _parse_error(_reason(error), offset) from None
    except RecursionError:
        raise invalid("JSON Parse error: lists and objects are nested too deep") from None
    except ValueError:
        # Python reads integers of some thousand digits at most.
        raise invalid("JSON Parse error: Number too big to be stored in double.") from None
    if not isinstance(value, dict):
        raise invalid(f"JSON Value: {shown(value)} Is not object")
    return value


def encode(text: str) -> bytes:
    """Returns the bytes of a string that `read_object` has read.

    Raises:
        RequestError: INVALID_ARGUMENT, it holds half a character, written as an escape.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise invalid("JSON Parse error: The surrogate pair in string is invalid.") from None


def shown(value: Any) -> str:
    """Returns a value as errors show it, if it is not long."""
    if isinstance(value, float):
        holds_all = not math.isfinite(value) or abs(value) <= FLOAT_MAX
        return decimals([value], np.float32 if holds_all else np.float64)[0]
    pieces, length = [], 0
    for piece in json.JSONEncoder(ensure_ascii=False, indent=4).iterencode(value):
        pieces.append(piece)
        length += len(piece)
        if length > SHOWN_LENGTH:
            return "".join(pieces)[:SHOWN_LENGTH] + "…"
    return "".join(pieces)


def _first_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        members = {}
        for name, value in pairs:
            members.setdefault(name, value)
    return members


def _parse_error(reason: str, offset: int) -> RequestError:
    return invalid(f"JSON Parse error: {reason} at offset: {offset}")


def _reason(error: json.JSONDecodeError) -> str:
    """Returns RapidJSON's words for an error of Python's."""
    if error.msg in REASONS:
        return REASONS[error.msg]
    open_brackets = []
    if error.pos <= MAX_SEARCH:
        for match in STRING_OR_BRACKET.finditer(error.doc, 0, error.pos):
            if match[0] in NO_COMMA_IN:
                open_brackets.append(match[0])
            elif match[0] in "]}":
                open_brackets.pop()
    return NO_COMMA_IN[open_brackets[-1]] if open_brackets else NO_COMMA
