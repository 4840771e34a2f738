"""`igpt tune`: the learning rate of pre-training, fine-tuning or probes, from large to small."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import click

from igpt_keras.cli import Group
from igpt_keras.cli.command import command, command_line, option, to_command_line
from igpt_keras.cli.finetune import finetune as finetune_command
from igpt_keras.cli.options import DATA, PROGRESS, output
from igpt_keras.cli.pretrain import describe
from igpt_keras.cli.pretrain import pretrain as pretrain_command
from igpt_keras.cli.probe import probe as probe_command
from igpt_keras.cli.training import print_bad_images, print_result
from igpt_keras.errors import InputError
from igpt_keras.extras import require
from igpt_keras.network.presets import PRESETS

RATE = "learning_rate"
SIZE_NAMES = ("num_layers", "hidden_dim", "num_heads")
# Options of the training commands that a search sets itself, or that choose nothing.
LEFT_OUT = {RATE, "resume", "overwrite", "output", "train_on_validation", PROGRESS.name}
LEFT_OUT |= {"method", "concatenate", "baseline", "feature_cache"}


class Sizes(click.ParamType):
    """Sizes of models: presets, or LAYERSxWIDTHxHEADS, separated by commas."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the arguments of each size by its name."""
        if isinstance(value, dict):
            return value
        sizes = {name: self._size(name, param, ctx) for name in value.split(",")}
        if len(sizes) < len(value.split(",")):
            self.fail(f"{value!r} must list different sizes", param, ctx)
        return sizes

    def _size(self, name, param, ctx):
        if name in PRESETS:
            return {"preset": name}
        try:
            numbers = [int(number) for number in name.split("x")]
        except ValueError:
            numbers = []
        if len(numbers) != len(SIZE_NAMES):
            presets = ", ".join(PRESETS)
            self.fail(
                f"{name!r} is neither one of {presets} nor layers, width and heads such as 4x64x4",
                param,
                ctx,
            )
        return dict(zip(SIZE_NAMES, numbers, strict=True))


SEARCH_OPTIONS = (
    output("Folder of the search; an interrupted search in it is resumed."),
    option("--start", type=float, help="Largest learning rate, the first to try."),
    option(
        "--factor",
        type=float,
        show_default="the sequence 0.01, 0.003, 0.001, …",
        help="Ratio of consecutive learning rates.",
    ),
    option(
        "--floor", type=float, show_default="start / 1000", help="Smallest learning rate to try."
    ),
    option(
        "--tolerance",
        type=click.FloatRange(min=0),
        default=0.0,
        help="How much worse a trial's final metric may be than the previous one's without ending "
        "the search.",
    ),
)


@click.group(cls=Group)
def tune() -> None:
    """Search a learning rate from large to small, as the paper does.

    0.01, 0.003, 0.001, … are tried until the final validation loss increases; a trial that
    diverges is worse than any other. A search that is started again with the same options resumes.
    """


def _search(trains: click.Command, *more: click.Option, without: tuple[str, ...] = ()) -> Callable:
    """Returns a decorator for commands of `tune` with the options of the command that trains.

    The decorated function is called with the values of all options.
    """
    options = [each for each in trains.params if each.name not in {*LEFT_OUT, *without}]
    return command(*options, PROGRESS, *SEARCH_OPTIONS, *more, name=trains.name, within=tune)


@_search(
    pretrain_command,
    option(
        "--sizes",
        type=Sizes(),
        help="Sizes to search for, one after another: presets, or layers x width x heads, such as "
        "image_gpt_small,image_gpt_medium or 2x32x2,4x64x4.",
    ),
)
def pretrain(**values: Any) -> None:
    """Search the learning rate of `igpt pretrain`.

    Trials are compared by the final validation loss. The first learning rate is 0.01, unless
    --start gives another.
    """
    from igpt_keras.runs.pretrain import Settings
    from tuning import PretrainExperiment

    sizes = values.pop("sizes")
    if sizes and any(values[name] is not None for name in ("preset", *SIZE_NAMES)):
        raise click.UsageError("give --sizes, or one size by --preset or --num-layers, …")

    def options_of(others):
        return {**values, **(sizes[others["size"]] if sizes else {})}

    def settings(hp):
        if sizes:
            hp.Choice("size", list(sizes))
        return _made(Settings, options_of(hp.values))

    experiment = PretrainExperiment(_data(values), settings, command=command_line())
    tuner = _run(experiment, values, None if sizes else _describe(_made(Settings, values)))
    table = _table_of_sizes(tuner, options_of) if sizes else None
    _report(tuner, _commands(tuner, pretrain_command, values, options_of), values, table)


@_search(finetune_command)
def finetune(**values: Any) -> None:
    """Search the learning rate of `igpt finetune`.

    Trials are compared by the validation accuracy of their best epoch. The first learning rate is
    a tenth of the one that MODEL was pre-trained with, unless --start gives another.
    """
    from igpt_keras.runs.finetune import Settings
    from tuning import FinetuneExperiment

    experiment = FinetuneExperiment(_data(values), _made(Settings, values), command=command_line())
    tuner = _run(experiment, values)
    _report(tuner, _commands(tuner, finetune_command, values, lambda _: values), values)


@_search(probe_command, without=("labels_per_class",))
def probe(**values: Any) -> None:
    """Search the learning rate of `igpt probe --method sgd`.

    Each layer has a search of its own, whose trials are compared by the validation accuracy. The
    first learning rate is 30, unless --start gives another.
    """
    from igpt_keras.runs.probe import Settings
    from igpt_keras.runs.tokenizers import load_with_tokenizer
    from tuning import ProbeExperiment

    layers = values.pop("layers")
    model = load_with_tokenizer(values["model"])
    layers = list(range(model.config.num_layers + 1)) if layers is None else layers
    for layer in layers:
        model.check_layer(layer)

    def options_of(others):
        return {**values, "method": "sgd", "layers": [others["layer"]]}

    def settings(hp):
        hp.Choice("layer", layers)
        return _made(Settings, options_of(hp.values))

    features = values["output"] / "features"
    experiment = ProbeExperiment(_data(values), settings, features=features, command=command_line())
    tuner = _run(experiment, values)
    _report(tuner, _commands(tuner, probe_command, values, options_of), values)


def _describe(settings: Any) -> str:
    """Returns in a line what trials of pre-training train."""
    completed = settings.completed()
    config = completed.config(completed.read_tokenizer())
    return describe(dataclasses.replace(completed, learning_rate=None), config)


def _made(kind: type, values: dict[str, Any]):
    """Returns a dataclass made from the options that have the names of its fields."""
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: values[name] for name in names if name in values})


def _data(values: dict[str, Any]):
    return DATA.gather(dict(values))


def _run(experiment, values: dict[str, Any], first_line: str | None = None):
    """Runs a search to its end and returns it, in the process that reports it.

    Others exit after it, and a search that a signal stops exits with the status that it asks for.
    """
    from igpt_keras.cli.displayed_search import DisplayedSearch
    from igpt_keras.training.callbacks.checkpoint_manager import Interrupted
    from igpt_keras.training.strategies import is_chief
    from tuning import Rates
    from tuning.keras_tuner_internals import asks_another_process

    output = values["output"].absolute()
    if not asks_another_process():
        _check_folder(output)
    start = experiment.rates().start if values["start"] is None else values["start"]
    # keras-tuner announces on stdout that it resumes.
    with contextlib.redirect_stdout(sys.stderr):
        tuner = DisplayedSearch(
            experiment,
            Rates(start, values["floor"], values["factor"]),
            values["tolerance"],
            directory=output.parent,
            project_name=output.name,
            form=values["progress"] if is_chief(experiment.strategy) else "quiet",
        )
    if first_line is not None and values["progress"] != "quiet":
        print_result(first_line, values["progress"])
    try:
        tuner.search(verbose=0)
    except Interrupted as interrupted:
        click.echo(f"{interrupted}; resume with: {command_line()}", err=True)
        sys.exit(128 + (interrupted.signal_number or 0))
    if not tuner.writes:
        click.get_current_context().exit()
    return tuner


def _check_folder(output: pathlib.Path) -> None:
    """Raises `FileExistsError` for a folder that holds something other than a search."""
    visible = [path for path in output.glob("*") if not path.name.startswith(".")]
    if visible and not (output / "oracle.json").exists():
        raise FileExistsError(f"{output} exists and does not hold a search")


def _commands(
    tuner,
    trains: click.Command,
    values: dict[str, Any],
    options_of: Callable[[dict[str, Any]], dict[str, Any]],
) -> list[str | None]:
    """Returns, for each search, the command line that trains with the best rate."""
    commands = []
    for search in tuner.oracle.searches():
        name = "-".join(["best", *(str(value) for value in search.others.values())])
        options = {**options_of(search.others), "output": values["output"] / name}
        if search.best is None:
            commands.append(None)
        else:
            options[RATE] = search.best.hyperparameters.get(RATE)
            commands.append(to_command_line(trains, options, always=RATE))
    return commands


def _table_of_sizes(tuner, options_of: Callable):
    from igpt_keras.runs.pretrain import Settings
    from tuning.summary import sizes_table

    searches = tuner.oracle.searches()
    models = []
    for search in searches:
        settings = _made(Settings, options_of(search.others)).completed()
        models.append((search.others["size"], settings.objective, settings.image_size))
    return sizes_table(searches, models, tuner.oracle.objective.name)


def _report(tuner, commands: list[str | None], values: dict[str, Any], table=None) -> None:
    """Prints and writes the results of the searches."""
    from rich.console import Console

    from tuning.summary import SUMMARY_FILE, trials_table, verdict, write_summary

    output, searches = values["output"], tuner.oracle.searches()
    to_stderr = values["progress"] == "json"
    console = Console(stderr=to_stderr)
    if values["progress"] != "quiet" and not console.is_terminal:
        console.print(trials_table(tuner))
    if table is not None:
        console.print(table)
    for search, line in zip(searches, commands, strict=True):
        of = ", ".join(f"{name} {value}: " for name, value in search.others.items())
        click.echo(f"{of}{verdict(search)}", err=to_stderr)
        if line is not None:
            click.echo(f"  {line}", err=to_stderr)
    print_bad_images(tuner.experiment.data)
    write_summary(tuner, commands, output)
    written = [SUMMARY_FILE, *_draw(tuner, output)]
    click.echo(f"Wrote {', '.join(written)} in {output}", err=to_stderr)


def _draw(tuner, output: pathlib.Path) -> list[str]:
    """Draws the figures if matplotlib is installed; returns the names of their files."""
    try:
        require("matplotlib", "report")
    except InputError as error:
        click.echo(f"No figures: {error}", err=True)
        return []
    from tuning.plots import draw

    return draw(tuner, output)
