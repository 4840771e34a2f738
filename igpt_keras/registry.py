"""Named implementations that are found by name: sources, tokenizers, samplers, probes, …."""

import functools
import importlib.metadata
from collections.abc import Callable
from typing import Generic, TypeVar

from igpt_keras.errors import InputError

PLUGINS = "igpt_keras.plugins"

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to implementations of one kind.

    A module registers its implementation with a decorator; a lookup by name finds it. The
    first lookup also imports the modules that installed packages list under the entry-point
    group `igpt_keras.plugins`, so that a package can add an implementation of its own.

    Args:
        kind: What is registered, for error messages, such as "sampler".

    Example:
        ```python
        from igpt_keras.registry import Registry

        shapes = Registry("shape")

        @shapes.register("square")
        class Square: ...

        shapes.get("square")  # <class 'Square'>
        shapes.names()  # ["square"]
        ```
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that registers an implementation as `name`.

        Raises:
            ValueError: Another implementation has that name.
        """

        def add(implementation: T) -> T:
            if self._entries.setdefault(name, implementation) is not implementation:
                raise ValueError(f"a {self.kind} named {name!r} is registered already")
            return implementation

        return add

    def get(self, name: str) -> T:
        """Returns the implementation registered as `name`.

        Raises:
            InputError: No implementation has that name.
        """
        if name not in self._entries:
            load_plugins()
        if name not in self._entries:
            raise InputError(
                f"{self.kind} must be one of {', '.join(sorted(self._entries))}, got {name!r}"
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """Returns all names, in the order of registration."""
        load_plugins()
        return list(self._entries)


@functools.cache
def load_plugins() -> None:
    """Imports the modules that installed packages list under `igpt_keras.plugins`."""
    for entry_point in importlib.metadata.entry_points(group=PLUGINS):
        entry_point.load()
