"""`--callback MODULE:NAME`, for commands that train."""

import functools
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from igpt_keras.cli.command import OptionGroup, option

if TYPE_CHECKING:
    import keras


def load_callbacks(callback: Sequence[str]) -> "list[keras.callbacks.Callback]":
    """Returns Keras callbacks, given as `MODULE:NAME`.

    Args:
        callback: Paths of subclasses of `keras.callbacks.Callback`, of functions that return a
            callback, or of callbacks. Classes and functions are called without arguments.
            Modules are installed or in the working directory.

    Raises:
        click.BadParameter: A path does not lead to a callback.
    """
    return [_load_callback(path) for path in callback]


def _load_callback(path: str) -> "keras.callbacks.Callback":
    import keras

    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise _bad(f"must be MODULE:NAME, got {path!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise _bad(f"found no module {error.name}, installed or in the working directory") from None
    try:
        found = functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        raise _bad(f"found no {name} in the module {module_name}") from None
    made = found() if callable(found) else found
    if not isinstance(made, keras.callbacks.Callback):
        raise _bad(f"must lead to a keras.callbacks.Callback, got {type(made).__name__} of {path}")
    return made


def _bad(message: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint="--callback")


CALLBACKS = OptionGroup(
    "callbacks",
    (
        option(
            "--callback",
            multiple=True,
            metavar="MODULE:NAME",
            help="Keras callback to train with: a class or a function that is called without "
            "arguments, in an installed module or one in the working directory. Give it several "
            "times for several callbacks. With several workers, only the first one calls it.",
        ),
    ),
    load_callbacks,
)
