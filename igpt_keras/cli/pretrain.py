"""`igpt pretrain`: images in, a generative model out."""

import contextlib
import dataclasses
import pathlib
import shlex
import signal
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import click
import keras
import numpy as np
import tensorflow as tf
from click.core import ParameterSource
from PIL import Image

import igpt_keras
from igpt_keras import folder
from igpt_keras.atomic import check_replaceable
from igpt_keras.cli.options import (
    DataOptions,
    TrainingOptions,
    batch_size_option,
    command_line,
    data_options,
    output_option,
    overwrite_option,
    seed_option,
    training_options,
)
from igpt_keras.cli.palette import MAX_IMAGES, read_palette, training_images
from igpt_keras.config import OBJECTIVES, PRESETS
from igpt_keras.data.open import DataSet
from igpt_keras.data.parts import Part
from igpt_keras.data.pipeline import TrainingStream, read_images
from igpt_keras.errors import InputError
from igpt_keras.evaluation.accuracy import masked_inputs
from igpt_keras.evaluation.results import RESULT_FILE, Result, describe_model, write_result
from igpt_keras.pictures import contact_sheet, keep_top, save_png
from igpt_keras.training.checkpoints import Checkpoints
from igpt_keras.training.guard import SpikeGuard
from igpt_keras.training.journal import Journal, read_history
from igpt_keras.training.pretraining import pretrain as pretrain_model
from igpt_keras.training.progress import ProgressBar
from igpt_keras.training.runs import (
    CHECKPOINTS,
    PALETTE_FILE,
    RUN_FILE,
    STATES,
    create_run,
    only_writer,
    read_run,
)
from igpt_keras.training.state import Interrupted, States
from igpt_keras.training.strategies import check_batch_size, is_chief, make_strategy, share_out

PICTURED, COMPLETIONS_EACH, SAMPLES = 8, 6, 40


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line says of the model and its training; see the options."""

    objective: str
    image_size: int | None
    preset: str | None
    num_layers: int | None
    hidden_dim: int | None
    num_heads: int | None
    palette: str | None
    num_colors: int
    epochs: float | None
    steps: int | None
    batch_size: int
    learning_rate: float
    mask_probability: float
    checkpoints: int
    save_every: int
    keep_states: int
    log_every: int
    seed: int

    def check(self) -> None:
        """Raises an error for options that contradict each other or are out of range."""
        if (self.epochs is None) == (self.steps is None):
            raise click.UsageError("give either --epochs or --steps")
        if self.checkpoints < 1:
            raise InputError(f"checkpoints must be at least 1, got {self.checkpoints}")
        self.sizes()

    def sizes(self) -> dict[str, int]:
        """Arguments of `ImageGPTConfig`: those of the preset, unless given."""
        names = ("num_layers", "hidden_dim", "num_heads", "image_size")
        given = {name: getattr(self, name) for name in names}
        sizes = dict(PRESETS[self.preset]) if self.preset else {}
        sizes |= {name: size for name, size in given.items() if size is not None}
        missing = [name.replace("_", "-") for name in given if name not in sizes]
        if missing:
            raise InputError(f"without --preset, give --{', --'.join(missing)} as well")
        return sizes

    def intervals(self, steps_of_data: int) -> dict[str, int]:
        """Arguments of `pretrain`: Keras' epochs are the intervals between two evaluations.

        There are 2^(`checkpoints` - 1), so that every checkpoint is at the end of one.

        Args:
            steps_of_data: batches in a pass over the images.
        """
        total_steps = self.steps or round(self.epochs * steps_of_data)
        intervals = 2 ** (self.checkpoints - 1)
        if total_steps < intervals:
            raise InputError(
                f"{total_steps} steps are too few for checkpoints={self.checkpoints}, "
                f"which needs {intervals} or more"
            )
        return {
            "epochs": intervals,
            "steps_per_epoch": total_steps // intervals,
            "warmup_steps": min(steps_of_data, total_steps),
        }


@dataclasses.dataclass(frozen=True)
class Images:
    """What a run learns from, and is measured on.

    Attributes:
        options: what the user said of the data.
        data_set: the images.
        held_out: those whose loss is followed: the validation part, or, where it is folded,
            the test part.
    """

    options: DataOptions
    data_set: DataSet
    held_out: Part

    @classmethod
    def open(cls, options: DataOptions) -> "Images":
        data_set = options.open()
        held_out = data_set.validation or data_set.test
        if held_out is None:
            raise InputError("fold_validation leaves nothing to validate on: there is no test part")
        return cls(options, data_set, held_out)

    def fingerprints(self) -> list[str]:
        """What changes when the images change."""
        parts = [*(each.part for each in self.data_set.ingredients), self.held_out]
        return [part.fingerprint() for part in parts]

    def stream(self, palette: igpt_keras.ColorPalette, settings: Settings) -> TrainingStream:
        return self.options.stream(
            self.data_set,
            palette,
            settings.sizes()["image_size"],
            settings.batch_size,
            settings.seed,
            labels=False,
            mask_probability=settings.mask_probability if settings.objective == "bert" else None,
        )


@dataclasses.dataclass(frozen=True)
class Run:
    """One training and its folder.

    Attributes:
        command: that began it.
        images: what it learns from.
        settings: of the model and its training.
        training: how it runs.
        output: the folder.
    """

    command: str
    images: Images
    settings: Settings
    training: TrainingOptions
    output: pathlib.Path

    def about(self) -> dict[str, Any]:
        """What a model folder says of its training."""
        name = self.images.data_set.describe()["name"]
        return {"name": self.output.name, "data": name, "command": self.command}


def _from_run(context: click.Context, parameter: click.Parameter, run: pathlib.Path | None):
    """Takes what is not given from the options that `run` began with."""
    if run is not None:
        context.default_map = {**read_run(run)["options"], "output": str(run)}
    return run


@click.command()
@click.option(
    "--resume",
    metavar="RUN",
    type=click.Path(path_type=pathlib.Path),
    is_eager=True,
    callback=_from_run,
    help="Go on with a run that was interrupted, with the options it began with.",
)
@data_options
@output_option("Folder of the run.")
@click.option("--objective", type=click.Choice(OBJECTIVES), default="ar", show_default=True)
@click.option("--image-size", type=int, help="Side of the model's input.  [default: the preset's]")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="A model of the paper.")
@click.option("--num-layers", type=int, help="Instead of --preset.")
@click.option("--hidden-dim", type=int, help="Instead of --preset.")
@click.option("--num-heads", type=int, help="Instead of --preset.")
@click.option("--palette", help="A .npy palette or a model that has one.  [default: fit one]")
@click.option(
    "--num-colors", default=512, show_default=True, help="Of a palette fitted to the images."
)
@click.option("--epochs", type=float, help="Passes over the images; or --steps.")
@click.option("--steps", type=int, help="Batches to train on; or --epochs.")
@batch_size_option()
@click.option("--learning-rate", default=0.003, show_default=True, help="After the warm-up.")
@click.option("--mask-probability", default=0.15, show_default=True, help="For BERT.")
@click.option(
    "--checkpoints",
    default=5,
    show_default=True,
    help="Models kept: the last, and those after 1/2, 1/4, … of the steps; besides, the best.",
)
@click.option(
    "--save-every",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Steps after which all that --resume needs is written.",
)
@click.option(
    "--keep-states",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="How many of the last of these stay.",
)
@click.option(
    "--log-every",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Steps between two lines of history.jsonl.",
)
@training_options
@seed_option()
@overwrite_option("Replace an earlier run.")
@click.pass_context
def pretrain(
    context: click.Context,
    resume: pathlib.Path | None,
    data: DataOptions,
    training: TrainingOptions,
    output: pathlib.Path,
    overwrite: bool,
    **settings,
):
    """Train an Image GPT on images, without labels.

    Writes the run's folder: the model, checkpoints on the way, history.jsonl and TensorBoard's
    events, completions and samples, and result.json with the losses. SIGTERM or Ctrl-C end the
    training after a step and save it; --resume goes on from there, or from before a crash.
    """
    settings = Settings(**settings)
    settings.check()
    if resume is not None:
        _check_nothing_changes(context)
        if (output / RESULT_FILE).exists():
            training.conclude(f"{output} is finished, nothing is left to do")
            return
    strategy = make_strategy(training.strategy)
    check_batch_size(strategy, settings.batch_size)
    writes = is_chief(strategy)
    if resume is None and writes:
        check_replaceable(output, overwrite, marker=RUN_FILE)
    images = Images.open(data)
    if resume is None:
        command, palette = command_line(), _palette(images, settings)
    else:
        begun = read_run(output)
        command, palette = begun["command"], igpt_keras.ColorPalette.load(output / PALETTE_FILE)
        if begun["images"] != images.fingerprints():
            raise InputError(f"the images of {' '.join(data.data)} are not those of {resume}")
    stream = images.stream(palette, settings)
    intervals = settings.intervals(stream.steps_per_epoch)
    if resume is None and writes:
        about = {"options": _options(context), "images": images.fingerprints()}
        create_run(output, {"command": command, **about}, palette, overwrite)
    run = Run(command, images, settings, training, output)
    with only_writer(output) if writes else contextlib.nullcontext():
        with strategy.scope():
            model = _new_model(palette, settings, training.precision)
        training.prepare(model)
        saving = _train(model, run, stream, intervals)
        test_loss = _test_loss(model, run)
        if not writes:
            return
        figures = {**_figures(saving, run), "test_loss": test_loss}
        _write(model, run, figures)
    data.report_bad_images()
    training.conclude(
        f"validation loss {figures['validation_loss']:.4f} nats per pixel; wrote {output}"
    )


def _options(context: click.Context) -> dict[str, Any]:
    """What a resumed run takes from this one, JSON-serialisable."""
    names = {parameter.name for parameter in context.command.params}
    names -= {"resume", "output", "overwrite"}
    values = {name: context.params[name] for name in sorted(names)}
    return {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in values.items()}


def _check_nothing_changes(context: click.Context) -> None:
    """Raises `click.UsageError` for options beside --resume that would make it another run."""
    layout = {"strategy", "micro_batches", "remat", "guard", "progress"}
    may_change = {"resume", "save_every", "keep_states", "log_every", *layout}
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name) == ParameterSource.COMMANDLINE
        and parameter.name not in may_change
    ]
    if given:
        raise click.UsageError(
            f"--resume goes on with the options the run began with; leave out {', '.join(given)}"
        )


def _palette(images: Images, settings: Settings) -> igpt_keras.ColorPalette:
    """The palette asked for, or one fitted to the images."""
    if settings.palette is not None:
        return read_palette(settings.palette)[0]
    size = settings.sizes()["image_size"]
    pixels = training_images(images.options, images.data_set, size, MAX_IMAGES, settings.seed)
    return igpt_keras.ColorPalette.fit(pixels, settings.num_colors, settings.seed)


def _new_model(
    palette: igpt_keras.ColorPalette, settings: Settings, precision: str
) -> igpt_keras.ImageGPT:
    config = igpt_keras.ImageGPTConfig(vocabulary_size=palette.num_colors, **settings.sizes())
    keras.utils.set_random_seed(settings.seed)
    return igpt_keras.ImageGPT(
        config,
        settings.objective,
        mask_probability=settings.mask_probability,
        palette=palette,
        dtype=precision,
    )


def _train(
    model: igpt_keras.ImageGPT, run: Run, stream: TrainingStream, intervals: dict[str, int]
) -> Checkpoints:
    """Trains `model`, from the last state on if there is one."""
    images, settings, training, output = run.images, run.settings, run.training, run.output
    total_steps = intervals["epochs"] * intervals["steps_per_epoch"]
    strategy = model.distribute_strategy
    writes = is_chief(strategy)
    bar = ProgressBar(
        output.name, ("loss", "bits_per_pixel", "val_loss"), total_steps, training.progress
    )
    saving = Checkpoints(
        output / CHECKPOINTS,
        {intervals["epochs"] >> halvings for halvings in range(settings.checkpoints)},
        intervals["steps_per_epoch"],
        run.about(),
        writes=writes,
    )
    journal = Journal(
        output,
        settings.log_every,
        settings.batch_size,
        pictures=partial(_pictures, run=run),
        listeners=[bar.show],
        writes=writes,
    )
    callbacks = {"checkpoints": saving, "journal": journal}
    if training.guard:
        callbacks["guard"] = SpikeGuard(total_steps)
    states = States(
        output / STATES,
        settings.save_every,
        keep=settings.keep_states,
        writes=writes,
        callbacks=callbacks,
    )
    training.say(
        f"{model.count_params():,} parameters, {total_steps} steps of {settings.batch_size} images"
    )
    tokens = images.options.encode(images.held_out, model.palette, model.config.image_size).tokens
    # One of several workers cannot stop by itself: the others would wait for it.
    alone = not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    stopping = _stopped_by_signals(states, output) if alone else contextlib.nullcontext()
    with bar, images.options.decoder.naming_errors(), stopping:
        pretrain_model(
            model,
            lambda step: share_out(partial(stream.dataset, step), strategy),
            masked_inputs(model, tokens, settings.seed),
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            clip_norm=training.clip_norm,
            seed=settings.seed,
            states=states,
            callbacks=[*callbacks.values(), bar],
            verbose=0,
            **intervals,
        )
    return saving


@contextlib.contextmanager
def _stopped_by_signals(states: States, output: pathlib.Path) -> Iterator[None]:
    """The first SIGTERM or Ctrl-C ends training after a step, with its state on disk."""
    received = []

    def stop(signal_number, frame):
        # A second one ends the process at once.
        signal.signal(signal_number, before[signal_number])
        received.append(signal_number)
        states.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except Interrupted as interrupted:
        command = shlex.join(["igpt", "pretrain", "--resume", str(output)])
        click.echo(f"{interrupted}; go on with {command}", err=True)
        sys.exit(128 + received[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _figures(saving: Checkpoints, run: Run) -> dict[str, Any]:
    """Figures of a result: losses in nats per pixel, at every evaluation and of the models."""
    records = read_history(run.output)
    evaluations = [record for record in records if "val_loss" in record]
    speeds = [r["images_per_second"] for r in records if r.get("images_per_second")]
    speed = float(np.median(speeds)) if speeds else None
    steps = evaluations[-1]["step"]
    return {
        "history": {
            "step": [record["step"] for record in evaluations],
            "loss": _means_between(records, evaluations),
            "val_loss": [record["val_loss"] for record in evaluations],
        },
        "validation_loss": saving.saved[-1]["validation_loss"],
        "checkpoints": [
            {**saved, "path": f"{CHECKPOINTS}/{saved['path']}"} for saved in saving.saved
        ],
        "best_checkpoint": {**saving.best, "path": f"{CHECKPOINTS}/{saving.best['path']}"},
        "images_per_second": speed,
        "minutes": speed and steps * run.settings.batch_size / speed / 60,
    }


def _means_between(records: list[dict], evaluations: list[dict]) -> list[float]:
    """The mean training loss of the steps before each of `evaluations`, since the one before."""
    means, total, first, previous = [], 0.0, 0, 0
    for record in records:
        total += record.get("loss", 0.0) * (record["step"] - previous)
        previous = record["step"]
        if record in evaluations:
            means.append(total / (previous - first))
            total, first = 0.0, previous
    return means


def _test_loss(model: igpt_keras.ImageGPT, run: Run) -> float | None:
    """The generative loss in nats per pixel on the test part, if there is one."""
    test = run.images.data_set.test
    if test is None:
        return None
    tokens = run.images.options.encode(test, model.palette, model.config.image_size).tokens
    size = run.settings.batch_size
    return model.evaluate(tokens, batch_size=size, verbose=0, return_dict=True)["loss"]


def _pictures(model: igpt_keras.ImageGPT, run: Run) -> dict[str, Image.Image]:
    """Completions of held-out images, by an autoregressive model."""
    if model.objective != "ar":
        return {}
    images, seed = run.images, run.settings.seed
    size, keep_rows = model.config.image_size, model.config.image_size // 2
    reading = images.options.reading()
    pixels = read_images(images.held_out, size, limit=PICTURED, seed=seed, **reading).images
    completions = igpt_keras.complete(model, None, pixels, keep_rows, COMPLETIONS_EACH, seed=seed)
    rows = [
        [original, keep_top(original, keep_rows), *completed]
        for original, completed in zip(pixels, completions.images, strict=True)
    ]
    return {"completions": contact_sheet(rows, ["original", "kept", "completions"])}


def _write(model: igpt_keras.ImageGPT, run: Run, figures: dict[str, Any]) -> None:
    """Writes what a finished run has: the model, pictures, and the result in the end."""
    history = figures["history"]
    measured = {"step": history["step"][-1], "validation_loss": figures["validation_loss"]}
    about = {**run.about(), **measured, "history": history}
    folder.save(model, run.output / folder.MODEL_FOLDER, about, overwrite=True)
    for name, picture in _pictures(model, run).items():
        save_png(picture, run.output / f"{name}.png")
    if model.objective == "ar":
        samples = igpt_keras.sample(model, None, SAMPLES, seed=run.settings.seed).images[:, 0]
        save_png(contact_sheet(np.array_split(samples, 5)), run.output / "samples.png")
    described = {**dataclasses.asdict(run.settings), **dataclasses.asdict(run.training)}
    result = Result(
        kind="pretrain",
        command=run.command,
        model=describe_model(model, run.output),
        data=run.images.data_set.describe(),
        settings={**described, "augmentation": run.images.options.augmentation},
        figures=figures,
    )
    write_result(result, run.output)
