"""`igpt tune`: the learning rate of pre-training, fine-tuning or probes, from large to small."""

import contextlib
import dataclasses
import importlib.util
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import click
from keras_tuner.engine.trial import Trial
from rich.console import Console
from rich.live import Live
from rich.table import Table

from igpt_keras.cli.finetune import finetune as finetune_command
from igpt_keras.cli.options import command_line, to_command_line
from igpt_keras.cli.pretrain import pretrain as pretrain_command
from igpt_keras.cli.probe import probe as probe_command
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.network.config import PRESETS
from igpt_keras.runs import finetune as finetuning
from igpt_keras.runs import pretrain as pretraining
from igpt_keras.runs import probe as probing
from igpt_keras.runs.options import DataOptions, TrainingOptions
from igpt_keras.runs.tokenizers import load_with_palette
from igpt_keras.training.callbacks.checkpoint_manager import Interrupted
from igpt_keras.training.callbacks.running_means import updates_done
from igpt_keras.training.strategies import is_chief
from tuning.experiments import Experiment, FinetuneExperiment, PretrainExperiment, ProbeExperiment
from tuning.rates import RATE, Rates
from tuning.summary import (
    SUMMARY_FILE,
    rate_of,
    sizes_table,
    trial_as_json,
    trials_table,
    verdict,
    write_summary,
)
from tuning.tuner import LearningRateSearch

SECONDS_BETWEEN_UPDATES = 0.25
SIZE_NAMES = ("num_layers", "hidden_dim", "num_heads")
# Of the training commands: what a search sets itself, or what nothing is chosen by.
LEFT_OUT = {RATE, "resume", "overwrite", "output", "train_on_validation"}
LEFT_OUT |= {"method", "concatenate", "baseline", "feature_cache"}


class Sizes(click.ParamType):
    """Presets, or LAYERSxWIDTHxHEADS, separated by commas."""

    name = "sizes"

    def convert(self, value, parameter, context):
        if isinstance(value, dict):
            return value
        sizes = {name: self._size(name, parameter, context) for name in value.split(",")}
        if len(sizes) < len(value.split(",")):
            self.fail(f"{value!r} must hold different sizes", parameter, context)
        return sizes

    def _size(self, name, parameter, context):
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
                parameter,
                context,
            )
        return dict(zip(SIZE_NAMES, numbers, strict=True))


SEARCH_OPTIONS = (
    click.Option(
        ["--output"],
        required=True,
        type=click.Path(path_type=pathlib.Path),
        help="Folder of the search; one that was interrupted goes on.",
    ),
    click.Option(["--start"], type=float, help="First learning rate."),
    click.Option(["--factor"], type=float, help="Between two rates.  [default: 0.01, 0.003, …]"),
    click.Option(["--floor"], type=float, help="No smaller rate.  [default: start / 1000]"),
    click.Option(
        ["--tolerance"],
        type=click.FloatRange(min=0),
        default=0.0,
        show_default=True,
        help="By how much a final figure may be worse than the one before without an end.",
    ),
)
PROGRESS = next(option for option in finetune_command.params if option.name == "progress")


@click.group()
def tune():
    """Search a learning rate from large to small, as the paper does.

    0.01, 0.003, 0.001, … until the final validation loss increases; a trial that diverges is
    worse than any other. Called again with the same options, it goes on.
    """


def _searches(trains: click.Command, start: str, *more: click.Option) -> Callable:
    """A command of the group `tune`, with the options of the command that trains."""

    def add(callback: Callable) -> click.Command:
        left_out = LEFT_OUT | ({"labels_per_class"} if trains is probe_command else set())
        options = [option for option in trains.params if option.name not in left_out]
        if all(option.name != PROGRESS.name for option in options):
            options.append(PROGRESS)
        command = click.Command(
            trains.name,
            params=[*options, *SEARCH_OPTIONS, *more],
            callback=lambda **values: callback(values),
            help=f"{callback.__doc__}\n\nThe first rate is {start}, unless --start gives it.",
            short_help=callback.__doc__,
        )
        tune.add_command(command)
        return command

    return add


@_searches(
    pretrain_command,
    "0.01",
    click.Option(
        ["--sizes"],
        type=Sizes(),
        help="Search for each of these: presets, or layers x width x heads, such as "
        "image_gpt_small,image_gpt_medium or 2x32x2,4x64x4.",
    ),
)
def pretrain(values: dict[str, Any]) -> None:
    """The rate of `igpt pretrain`, by the final validation loss."""
    sizes = values.pop("sizes")
    if sizes and any(values[name] is not None for name in ("preset", *SIZE_NAMES)):
        raise click.UsageError("give --sizes, or one size by --preset or --num-layers, …")

    def options_of(others):
        return {**values, **(sizes[others["size"]] if sizes else {})}

    def settings(hp):
        if sizes:
            hp.Choice("size", list(sizes))
        return _made(pretraining.Settings, options_of(hp.values))

    experiment = PretrainExperiment(
        _data(values), settings, _training(values), command=command_line()
    )
    tuner = _search(experiment, values)
    commands = _commands(tuner, pretrain_command, values, options_of)
    table = _table_of_sizes(tuner, options_of) if sizes else None
    _conclude(tuner, commands, values, table)


@_searches(finetune_command, "a tenth of the one that MODEL was pre-trained at")
def finetune(values: dict[str, Any]) -> None:
    """The rate of `igpt finetune MODEL`, by the validation accuracy."""
    experiment = FinetuneExperiment(
        values["model"],
        _data(values),
        _made(finetuning.Settings, values),
        _training(values),
        command=command_line(),
    )
    tuner = _search(experiment, values)
    commands = _commands(tuner, finetune_command, values, lambda _: values)
    _conclude(tuner, commands, values)


@_searches(probe_command, "30")
def probe(values: dict[str, Any]) -> None:
    """The rate of `igpt probe MODEL --method sgd`, layer by layer, by the validation accuracy."""
    layers = values.pop("layers")
    model = load_with_palette(values["model"])
    layers = list(range(model.config.num_layers + 1)) if layers is None else layers
    for layer in layers:
        model.check_layer(layer)

    def options_of(others):
        return {**values, "method": "sgd", "layers": [others["layer"]]}

    def settings(hp):
        hp.Choice("layer", layers)
        return _made(probing.Settings, options_of(hp.values))

    features = values["output"] / "features"
    experiment = ProbeExperiment(
        values["model"], _data(values), settings, features=features, command=command_line()
    )
    tuner = _search(experiment, values)
    commands = _commands(tuner, probe_command, values, options_of)
    _conclude(tuner, commands, values)


def _made(kind: type, values: dict[str, Any], **others):
    """A dataclass from the options of its name."""
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{**{name: values[name] for name in names if name in values}, **others})


def _data(values: dict[str, Any]) -> DataOptions:
    return _made(DataOptions, values, decoder=ImageDecoder(values["skip_bad_images"]))


def _training(values: dict[str, Any]) -> TrainingOptions:
    """That of trials, whose progress is shown in the table."""
    return _made(TrainingOptions, values, progress="quiet")


def _search(experiment: Experiment, values: dict[str, Any]) -> LearningRateSearch:
    """Searches to the end under a live table; or exits, with what a signal asks for."""
    output = values["output"].absolute()
    _check_folder(output)
    start = experiment.rates().start if values["start"] is None else values["start"]
    # keras-tuner says on the standard output that it goes on.
    with contextlib.redirect_stdout(sys.stderr):
        tuner = _ShownSearch(
            experiment,
            Rates(start, values["floor"], values["factor"]),
            values["tolerance"],
            directory=output.parent,
            project_name=output.name,
            form=values["progress"] if is_chief(experiment.strategy) else "quiet",
        )
    try:
        tuner.search(verbose=0)
    except Interrupted as interrupted:
        click.echo(f"{interrupted}; go on with {command_line()}", err=True)
        sys.exit(128 + interrupted.signal_number)
    return tuner


def _check_folder(output: pathlib.Path) -> None:
    """Raises `FileExistsError` for a folder of other things."""
    visible = [path for path in output.glob("*") if not path.name.startswith(".")]
    if visible and not (output / "oracle.json").exists():
        raise FileExistsError(f"{output} is a folder of other things, not of a search")


class _ShownSearch(LearningRateSearch):
    """Shows its trials: at a terminal a live table, elsewhere a line for each."""

    def __init__(self, *arguments, form: str, **keywords):
        super().__init__(*arguments, **keywords)
        console = Console(stderr=form == "json")
        self.form = "table" if form == "auto" and console.is_terminal else form
        self._live = Live(console=console, auto_refresh=False)
        self._shown = 0.0

    def search(self, **keywords):
        with self._live if self.form == "table" else contextlib.nullcontext():
            super().search(**keywords)
            self._show()

    def on_trial_begin(self, trial):
        super().on_trial_begin(trial)
        self._show()
        if self.form == "auto":
            print(f"{_of(trial)}: training", flush=True)

    def on_batch_end(self, trial, model, batch, logs=None):
        if self.form == "table" and time.monotonic() > self._shown + SECONDS_BETWEEN_UPDATES:
            self._show(f"step {updates_done(model)}, loss {logs['loss']:.3f}")

    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        ended = trial_as_json(self.oracle.get_trial(trial.trial_id))
        if self.form == "json":
            print(json.dumps(ended), flush=True)
        elif self.form == "auto":
            figure = ended["message"] if ended["score"] is None else f"{ended['score']:.4f}"
            print(f"{_of(trial)}: {self.oracle.objective.name} {figure}", flush=True)

    def _show(self, running=""):
        if self.form == "table":
            self._shown = time.monotonic()
            self._live.update(trials_table(self, running), refresh=True)


def _of(trial: Trial) -> str:
    """The values of a trial."""
    return ", ".join(f"{name} {value}" for name, value in trial.hyperparameters.values.items())


def _commands(
    tuner: LearningRateSearch,
    trains: click.Command,
    values: dict[str, Any],
    options_of: Callable[[dict[str, Any]], dict[str, Any]],
) -> list[str | None]:
    """Of each search the command line that trains at the rate it found."""
    commands = []
    for search in tuner.oracle.searches():
        name = "-".join(["best", *(str(value) for value in search.others.values())])
        options = {**options_of(search.others), "output": values["output"] / name}
        if search.best is None:
            commands.append(None)
        else:
            options[RATE] = rate_of(search.best)
            commands.append(to_command_line(trains, options, always=RATE))
    return commands


def _table_of_sizes(tuner: LearningRateSearch, options_of: Callable) -> Table:
    searches = tuner.oracle.searches()
    models = []
    for search in searches:
        settings = _made(pretraining.Settings, options_of(search.others))
        side = settings.sizes()["image_size"]
        models.append((search.others["size"], settings.objective, side))
    return sizes_table(searches, models, tuner.oracle.objective.name)


def _conclude(
    tuner: LearningRateSearch,
    commands: list[str | None],
    values: dict[str, Any],
    table: Table | None = None,
) -> None:
    """Prints and writes what the searches came to."""
    if not tuner.writes:
        return
    output, searches = values["output"], tuner.oracle.searches()
    console = Console(stderr=values["progress"] == "json")
    if values["progress"] != "quiet" and not console.is_terminal:
        console.print(trials_table(tuner))
    if table is not None:
        console.print(table)
    for search, command in zip(searches, commands, strict=True):
        of = ", ".join(f"{name} {value}: " for name, value in search.others.items())
        console.print(f"{of}{verdict(search)}", soft_wrap=True)
        if command is not None:
            # Whole, to be copied.
            console.print(f"  {command}", soft_wrap=True, markup=False, highlight=False)
    tuner.experiment.data.report_bad_images()
    write_summary(tuner, commands, output)
    written = [SUMMARY_FILE, *_draw(tuner, output)]
    console.print(f"wrote {', '.join(written)} in {output}", soft_wrap=True)


def _draw(tuner: LearningRateSearch, output: pathlib.Path) -> list[str]:
    """Draws the figures, with matplotlib; the names of the files."""
    if importlib.util.find_spec("matplotlib") is None:
        click.echo("no figures: pip install 'igpt-keras[report]' to draw them", err=True)
        return []
    from tuning.plots import draw

    return draw(tuner, output)
