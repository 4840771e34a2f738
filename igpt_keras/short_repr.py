"""Short descriptions of dataclasses, for a prompt and for messages."""

import dataclasses
from typing import Any

import numpy as np


class ShortRepr:
    """Describes a dataclass in one line: fields that differ from their defaults, arrays by shape.

    The dataclass is declared with `repr=False`.

    Example:
        ```python
        @dataclasses.dataclass(frozen=True, repr=False)
        class Scores(ShortRepr):
            log_likelihood: np.ndarray
            seed: int = 0

        Scores(np.zeros(3, np.float32))  # Scores(log_likelihood=float32[3])
        ```
    """

    def __repr__(self) -> str:
        parts = []
        for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            value = getattr(self, field.name)
            is_array = isinstance(value, np.ndarray)
            if field.repr and (is_array or value != field.default):
                parts.append(f"{field.name}={_array(value) if is_array else repr(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"


def _array(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}"
