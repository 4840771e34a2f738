"""Options of samplers, derived from the fields of their dataclasses."""

import dataclasses
import itertools
from typing import Any

import click

from igpt_keras.cli.command import Command, load_tensorflow_for, option
from igpt_keras.sampling.samplers import Categorical, Sampler, get_sampler

DEFAULT = "categorical"
SAMPLER = option(
    "--sampler",
    default=DEFAULT,
    metavar="NAME",
    help="Sampler: categorical, greedy, top_k, top_p or a plug-in's. Each has options of its own, "
    "which `--sampler NAME --help` lists.",
)
_CLASS = "igpt_keras.cli.sampler_class"


def options_of(sampler: type[Sampler]) -> list[click.Option]:
    """Returns an option for each field of a sampler."""
    return [
        option(
            f"--{field.name.replace('_', '-')}",
            type=field.type,
            help=field.help,
            **(
                {"required": True}
                if field.default is dataclasses.MISSING
                else {"default": field.default}
            ),
        )
        for field in sampler.parameters()
    ]


class SamplerCommand(Command):
    """A command that has the option --sampler and the options of the sampler that it names.

    Its function gets a `Sampler` as `sampler`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments, after the sampler has been found among them."""
        name = _sampler_name(args)
        if name != DEFAULT:
            # The module of a plug-in may import it.
            load_tensorflow_for(ctx)
        ctx.meta[_CLASS] = get_sampler(name)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Returns the options of the sampler and all other parameters."""
        return [*options_of(ctx.meta.get(_CLASS, Categorical)), *super().get_params(ctx)]

    def gather(self, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the arguments of the function, the sampler among them."""
        sampler = get_sampler(values["sampler"])
        fields = {field.name: values.pop(field.name) for field in sampler.parameters()}
        return super().gather({**values, "sampler": sampler(**fields)})


def _sampler_name(args: list[str]) -> str:
    """Returns the value of --sampler."""
    for word, following in itertools.pairwise([*args, ""]):
        if word == "--sampler":
            return following
        if word.startswith("--sampler="):
            return word.partition("=")[2]
    return DEFAULT
