"""The parameters of every command."""

import inspect

import click
import pytest

from igpt_keras import cli
from igpt_keras.runs import finetune, fit_vqvae, pretrain, probe
from igpt_keras.runs.options import DataOptions
from serving.exporting import MAX_PIXELS
from serving.server import Server
from serving.transport import MAX_MESSAGE_BYTES

DATA = ["--data", "digits", "--output", "run"]
SIZES = {"steps": 1, "image_size": 8, "num_layers": 1, "hidden_dim": 8, "num_heads": 1}


def commands(command, path):
    """Yields every command with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), [*path, name])


ALL = {" ".join(path): command for path, command in commands(cli.igpt, [])}


def values(command, words):
    return ALL[command].make_context(command, words).params


@pytest.mark.parametrize("name", ALL)
def test_every_command_and_option_is_described(name):
    command = ALL[name]
    short = command.get_short_help_str(limit=64)
    assert short.endswith(".") and not short.endswith("..."), short
    for parameter in command.get_params(click.Context(command)):
        if isinstance(parameter, click.Option):
            assert parameter.help and parameter.help.endswith("."), parameter.name
            assert not parameter.help.startswith(("Of ", "What ", "How many ")), parameter.help


@pytest.mark.parametrize(
    ("command", "words", "settings"),
    [
        (
            "pretrain",
            [f"--{name.replace('_', '-')}={size}" for name, size in SIZES.items()],
            pretrain.Settings(**SIZES),
        ),
        ("finetune", ["model"], finetune.Settings(model="model")),
        ("probe", ["model"], probe.Settings(model="model")),
        ("tokenizer fit vqvae", [], fit_vqvae.Settings()),
    ],
)
def test_defaults_are_those_of_python(command, words, settings):
    given = values(command, [*words, *DATA])
    for options in (settings, DataOptions("digits")):
        for name, value in vars(options).items():
            if name in given:
                assert given[name] == value, name


def test_defaults_of_serving_are_those_of_python():
    given = values("serve", ["directory"])
    for name, parameter in inspect.signature(Server).parameters.items():
        if name in given and name != "directory":
            expected = 8500 if name == "port" else parameter.default
            assert given[name] == expected, name
    assert given["max_message_bytes"] == MAX_MESSAGE_BYTES
    assert values("export", ["model", "--output", "x"])["max_pixels"] == MAX_PIXELS
