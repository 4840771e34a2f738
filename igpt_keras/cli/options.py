"""Options that several commands share."""

import functools
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

import click

from igpt_keras import paper
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.runs.options import DataOptions, TrainingOptions
from igpt_keras.runs.recording import RecordingSettings
from igpt_keras.training.callbacks.progress_bar import FORMS
from igpt_keras.training.strategies import STRATEGIES

DATA_OPTIONS = (
    click.option(
        "--data",
        multiple=True,
        required=True,
        metavar="SOURCE",
        help="Images: digits, folder:PATH, …; several are mixed. See `docs/data.md`.",
    ),
    click.option("--data-dir", metavar="DIR", help="Where TFDS keeps its sets."),
    click.option(
        "--train-on-validation", is_flag=True, help="Train on the validation split as well."
    ),
    click.option(
        "--augmentation",
        type=click.Choice(["none", "imagenet", "cifar"]),
        default="none",
        show_default=True,
        help="Of training images; evaluation crops to match.",
    ),
    click.option(
        "--split-seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Of which images are held out.",
    ),
    click.option(
        "--cache",
        type=click.Path(path_type=pathlib.Path),
        metavar="DIR",
        help="Keep encoded images there, to be read by the next run.",
    ),
    click.option("--skip-bad-images", is_flag=True, help="Leave out images that cannot be read."),
)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of the data; the command gets them as one `data: DataOptions`."""

    def make(skip_bad_images, **options):
        return DataOptions(**options, decoder=ImageDecoder(skip_bad_images))

    return _gathered(command, DATA_OPTIONS, "data", make)


def _gathered(command, options, name, make):
    """`command` with `options`, which it gets as one argument: what `make` makes of them."""

    @functools.wraps(command)
    def with_options(*args, **kwargs):
        return command(*args, **{name: make(**{key: kwargs.pop(key) for key in keys})}, **kwargs)

    for option in reversed(options):
        with_options = option(with_options)
    keys = [parameter.name for parameter in with_options.__click_params__[-len(options) :]]
    return with_options


TRAINING_OPTIONS = (
    click.option(
        "--strategy",
        type=click.Choice(STRATEGIES),
        default="auto",
        show_default=True,
        help="Devices to train on; the batch size is that of all together.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "mixed_bfloat16", "mixed_float16"]),
        default="float32",
        show_default=True,
        help="Of the computation; weights, norms, softmax and losses are float32.",
    ),
    click.option(
        "--micro-batches",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Parts of a batch that go through the model in turn, to save memory.",
    ),
    click.option("--remat", is_flag=True, help="Recompute activations, to save memory."),
    click.option(
        "--clip-norm",
        type=click.FloatRange(min=0, min_open=True),
        help="Largest global norm of a gradient.  [default: any]",
    ),
    click.option(
        "--stop-on-divergence/--no-stop-on-divergence",
        default=True,
        show_default=True,
        help="Stop, with status 3, at a loss that is not finite or does not recover.",
    ),
    click.option(
        "--progress",
        type=click.Choice(FORMS),
        default="auto",
        show_default=True,
        help="auto: a bar, or lines where there is no terminal; json: one object a line.",
    ),
)


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of training; the command gets them as one `training: TrainingOptions`."""
    return _gathered(command, TRAINING_OPTIONS, "training", TrainingOptions)


RECORDING_OPTIONS = (
    click.option(
        "--checkpoint-every",
        type=click.IntRange(min=1),
        default=RecordingSettings.checkpoint_every,
        show_default=True,
        help="Steps after which all that --resume needs is written.",
    ),
    click.option(
        "--max-checkpoints",
        type=click.IntRange(min=1),
        default=RecordingSettings.max_checkpoints,
        show_default=True,
        help="How many of the last of these stay.",
    ),
    click.option(
        "--log-every",
        type=click.IntRange(min=1),
        default=RecordingSettings.log_every,
        show_default=True,
        help="Steps between two lines of history.jsonl.",
    ),
)


def recording_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of `RecordingSettings`; the command gets each of them."""
    for option in reversed(RECORDING_OPTIONS):
        command = option(command)
    return command


def output_option(of: str = "Folder to write to.") -> Callable:
    """--output or --out, a path that the command makes."""
    path = click.Path(path_type=pathlib.Path)
    return click.option("--output", required=True, type=path, help=of)


def overwrite_option(of: str = "Replace an earlier output folder.") -> Callable:
    """--overwrite, without which nothing is replaced."""
    return click.option("--overwrite", is_flag=True, help=of)


def seed_option(of: str = "Of every random choice.") -> Callable:
    """--seed, at least 0."""
    seed = click.IntRange(min=0)
    return click.option("--seed", type=seed, default=0, show_default=True, help=of)


def batch_size_option(of: str = "Images in a step.") -> Callable:
    """--batch-size, at least 1."""
    size = click.IntRange(min=1)
    return click.option(
        "--batch-size", type=size, default=paper.BATCH_SIZE, show_default=True, help=of
    )


def command_line() -> str:
    """The command line as typed, for whoever wants to repeat it."""
    return shlex.join(["igpt", *sys.argv[1:]])


def to_command_line(command: click.Command, values: dict[str, Any], always: str = "") -> str:
    """The command line that gives `command` these values.

    Options of a default value are left out, but for `always`.
    """
    words = ["igpt", command.name]
    with click.Context(command) as context:
        for parameter in command.params:
            value = values.get(parameter.name)
            if isinstance(parameter, click.Argument):
                words.append(str(value))
            elif parameter.name == always or value not in (None, parameter.get_default(context)):
                words += _option(parameter, value)
    return shlex.join(words)


def _option(option: click.Option, value: Any) -> list[str]:
    if option.is_flag:
        return [option.opts[0] if value else option.secondary_opts[0]]
    if option.multiple:
        return [word for one in value for word in (option.opts[0], str(one))]
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return [option.opts[0], str(value).removesuffix(".0")]
