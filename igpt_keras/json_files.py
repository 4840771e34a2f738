"""JSON files, written whole or not at all."""

import json
import os
import pathlib
from typing import Any

from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError

# Far above what any of these files needs: a million class names, or a year of metrics.
MAX_BYTES = 64 << 20


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` to `path`, replacing an earlier file."""
    with atomic_path(path, overwrite=True) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """Returns the value stored in `path`.

    Raises:
        FileNotFoundError: `path` does not exist.
        InputError: `path` is not valid JSON, or larger than `MAX_BYTES`.
    """
    path = pathlib.Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{path} is {size:,} bytes of JSON; at most {MAX_BYTES:,} are read")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise InputError(f"{path} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:  # Also numbers of thousands of digits, and bytes not in UTF-8.
        raise InputError(f"{path} is not valid JSON: {error}") from None


def read_object(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the JSON object stored in `path`.

    Raises:
        InputError: `path` is missing, is not valid JSON, or holds another value.
    """
    try:
        value = read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
