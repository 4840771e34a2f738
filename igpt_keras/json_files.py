"""JSON files, written whole or not at all."""

import json
import os
import pathlib
from typing import Any

from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` to `path`, replacing an earlier file."""
    with atomic_path(path, overwrite=True) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """Returns the value stored in `path`.

    Raises:
        FileNotFoundError: `path` does not exist.
        InputError: `path` is not valid JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
