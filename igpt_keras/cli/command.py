"""Commands as functions, with parameters that are declared as data and can be shared."""

import contextlib
import dataclasses
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

import click

from igpt_keras.atomic import FULL_DISK
from igpt_keras.cli.quiet import load_tensorflow
from igpt_keras.cli.signals import ended_by_second_signal
from igpt_keras.cli.slow_stages import SlowStages, slow_stages
from igpt_keras.errors import InputError


def option(*declarations: str, **attributes: Any) -> click.Option:
    """Returns an option. Arguments: those of `click.Option`."""
    return click.Option(declarations, **attributes)


def argument(*declarations: str, **attributes: Any) -> click.Argument:
    """Returns an argument. Arguments: those of `click.Argument`."""
    return click.Argument(declarations, **attributes)


@dataclasses.dataclass(frozen=True)
class OptionGroup:
    """Options that commands share, gathered into one argument of the command's function.

    Attributes:
        into: Name of the function's argument.
        options: The options, in the order of the help page.
        make: Makes the argument from the values of the options, given by name.
    """

    into: str
    options: tuple[click.Option, ...]
    make: Callable[..., Any] = dict

    def gather(self, values: dict[str, Any]) -> Any:
        """Takes the values of the options out of `values` and returns the argument."""
        names = [each.name for each in self.options if each.name in values]
        return self.make(**{name: values.pop(name) for name in names})


class Command(click.Command):
    """A command whose function gets an argument for each parameter and for each option group.

    Args:
        groups: The groups of those parameters that the function gets as one argument.
        needs_tensorflow: Whether to import TensorFlow, quietly, before the function is called.
        **attributes: As for `click.Command`.
    """

    def __init__(self, *, groups=(), needs_tensorflow: bool = True, **attributes):
        super().__init__(**attributes)
        self.groups = groups
        self.needs_tensorflow = needs_tensorflow

    def invoke(self, ctx: click.Context) -> Any:
        """Calls the function."""
        if self.needs_tensorflow:
            load_tensorflow_for(ctx)
        function = cast(Callable[..., Any], self.callback)
        with contextlib.ExitStack() as stack:
            stack.enter_context(ended_by_second_signal("igpt: error: interrupted"))
            stack.enter_context(_exhaustion_in_a_line())
            if ctx.params.get("progress") != "quiet":
                stack.enter_context(slow_stages(SlowStages()))
            return ctx.invoke(function, **self.gather(dict(ctx.params)))

    def gather(self, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the arguments of the function for the values of the parameters."""
        arguments = {group.into: group.gather(values) for group in self.groups}
        return values | arguments


@contextlib.contextmanager
def _exhaustion_in_a_line() -> Iterator[None]:
    """Raises TensorFlow's errors of a full disk and of full memory as errors of one line."""
    try:
        yield
    except Exception as error:
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow and isinstance(error, tensorflow.errors.OpError):
            if any(os.strerror(number) in str(error) for number in FULL_DISK):
                raise OSError(str(error).partition("\n")[0]) from error
        if tensorflow and isinstance(error, tensorflow.errors.ResourceExhaustedError):
            tensor = str(error).partition("\n")[0]
            raise InputError(
                f"out of memory ({tensor}); smaller batches, fewer images or a smaller model "
                "need less"
            ) from error
        raise


def load_tensorflow_for(context: click.Context) -> None:
    """Imports TensorFlow, quietly unless the command line has --verbose."""
    if not context.find_root().params.get("verbose"):
        load_tensorflow()


def command(
    *parameters: click.Parameter | OptionGroup,
    cls: type[Command] = Command,
    within: click.Group | None = None,
    **attributes: Any,
) -> Callable[[Callable], Command]:
    """Returns a decorator that makes a function a command of its name.

    Args:
        *parameters: Arguments, options and groups of options, in the order of the help page.
        cls: The class of the command.
        within: The group that the command is added to.
        **attributes: As for `cls`.
    """

    def make(function: Callable) -> Command:
        params = [
            each
            for parameter in parameters
            for each in (parameter.options if isinstance(parameter, OptionGroup) else [parameter])
        ]
        made = cls(
            name=attributes.pop("name", function.__name__),
            callback=function,
            help=inspect.getdoc(function),
            params=params,
            groups=[each for each in parameters if isinstance(each, OptionGroup)],
            **attributes,
        )
        if within is not None:
            within.add_command(made)
        return made

    return make


def command_line() -> str:
    """Returns the command line as typed, for those who want to repeat it."""
    return shlex.join(["igpt", *sys.argv[1:]])


def to_command_line(command: click.Command, values: dict[str, Any], always: str = "") -> str:
    """Returns the command line that gives `command` these values.

    Args:
        command: A command of `igpt`.
        values: Values of its parameters by name. Values that equal the default are left out.
        always: Name of the option that is written even if its value is the default.
    """
    words = ["igpt", command.name]
    with click.Context(command) as context:
        for parameter in command.params:
            value = values.get(parameter.name)
            if isinstance(parameter, click.Argument):
                words.append(str(value))
            elif isinstance(parameter, click.Option):
                if parameter.name == always or value not in (None, parameter.get_default(context)):
                    words += _words(parameter, value)
    return shlex.join(words)


def _words(given: click.Option, value: Any) -> list[str]:
    if given.is_flag:
        return [given.opts[0] if value else given.secondary_opts[0]]
    if given.multiple:
        return [word for each in value for word in (given.opts[0], str(each))]
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return [given.opts[0], str(value).removesuffix(".0")]
