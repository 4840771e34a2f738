"""Named implementations that are found by name: sources, tokenizers, samplers, probes, …."""

import functools
import importlib.metadata
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from igpt_keras.errors import InputError

PLUGINS = "igpt_keras.plugins"

T = TypeVar("T")
Entry = TypeVar("Entry")


class Registry(Generic[T]):
    """A mapping from names to implementations of one kind.

    A module registers its implementation with a decorator; a lookup by name finds it. The
    first lookup also imports the modules that installed packages list under the entry-point
    group `igpt_keras.plugins`, so that a package can add an implementation of its own.

    Args:
        kind: What is registered, for error messages, such as "sampler".
        package: A package in which each module registers one implementation, under the
            module's own name. A module is imported when its implementation is looked up, so
            that listing names is cheap. Modules whose names start with "_" do not count.

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

    def __init__(self, kind: str, package: str | None = None):
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Returns a decorator that registers an implementation as `name`.

        Raises:
            ValueError: Another implementation has that name.
        """

        def add(implementation: Entry) -> Entry:
            entry: Any = implementation
            if self._entries.setdefault(name, entry) is not entry:
                raise ValueError(f"a {self.kind} named {name!r} is registered already")
            return implementation

        return add

    def get(self, name: str) -> T:
        """Returns the implementation registered as `name`.

        Raises:
            InputError: No implementation has that name.
        """
        if name not in self._entries and name in self._module_names():
            importlib.import_module(f"{self.package}.{name}")
        if name not in self._entries:
            load_plugins()
        if name not in self._entries:
            choices = ", ".join(sorted(self.names()))
            raise InputError(f"{self.kind} must be one of {choices}, got {name!r}")
        return self._entries[name]

    def names(self) -> list[str]:
        """Returns all names, those of `package` first, else in the order of registration."""
        load_plugins()
        return list(dict.fromkeys([*self._module_names(), *self._entries]))

    def _module_names(self) -> list[str]:
        if self.package is None:
            return []
        path = importlib.import_module(self.package).__path__
        names = [module.name for module in pkgutil.iter_modules(path)]
        return [name for name in names if not name.startswith("_")]


@functools.cache
def load_plugins() -> None:
    """Imports the modules that installed packages list under `igpt_keras.plugins`."""
    for entry_point in importlib.metadata.entry_points(group=PLUGINS):
        entry_point.load()
