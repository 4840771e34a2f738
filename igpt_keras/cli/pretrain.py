"""`igpt pretrain`: images in, a generative model out."""

import dataclasses
import pathlib
import shutil
import time
from functools import partial
from typing import Any

import click
import keras
import numpy as np

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
from igpt_keras.data.pipeline import read_images
from igpt_keras.errors import InputError
from igpt_keras.evaluation.accuracy import masked_inputs
from igpt_keras.evaluation.results import Result, describe_model, write_result
from igpt_keras.pictures import contact_sheet, keep_top, save_png
from igpt_keras.training.checkpoints import Checkpoints
from igpt_keras.training.pretraining import pretrain as pretrain_model
from igpt_keras.training.progress import ProgressBar
from igpt_keras.training.strategies import folder_of_chief, make_strategy, share_out

CHECKPOINTS = "checkpoints"
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


@click.command()
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
    help="Models kept: the last, and those after 1/2, 1/4, … of the steps.",
)
@training_options
@seed_option()
@overwrite_option("Replace an earlier run.")
def pretrain(
    data: DataOptions,
    training: TrainingOptions,
    output: pathlib.Path,
    overwrite: bool,
    **settings,
):
    """Train an Image GPT on images, without labels.

    Writes the run's folder: the model, checkpoints on the way, completions and samples,
    and result.json with the losses.
    """
    settings = Settings(**settings)
    settings.check()
    strategy = make_strategy(training.strategy)
    with folder_of_chief(strategy, output) as run:
        check_replaceable(run, overwrite, marker=CHECKPOINTS)
        data_set = data.open()
        held_out = _held_out(data_set)
        with strategy.scope():
            model = _new_model(data, data_set, settings, training.precision)
        training.prepare(model, settings.batch_size)
        if run.exists():
            shutil.rmtree(run)
        (run / CHECKPOINTS).mkdir(parents=True)
        figures = _train(model, data, data_set, held_out, settings, training.clip_norm, run)
        _draw(model, data, held_out, run, settings.seed)
        result = Result(
            "pretrain",
            command_line(),
            describe_model(model, run),
            data_set.describe(),
            {
                **dataclasses.asdict(settings),
                **dataclasses.asdict(training),
                "augmentation": data.augmentation,
            },
            figures,
        )
        write_result(result, run)
    data.report_bad_images()
    click.echo(f"validation loss {figures['validation_loss']:.4f} nats per pixel; wrote {output}")


def _held_out(data_set: DataSet) -> Part:
    """The images whose loss is followed: the validation part, or, where it is folded, the test."""
    held_out = data_set.validation or data_set.test
    if held_out is None:
        raise InputError("fold_validation leaves nothing to validate on: there is no test part")
    return held_out


def _new_model(
    data: DataOptions, data_set: DataSet, settings: Settings, precision: str
) -> igpt_keras.ImageGPT:
    """A model of the sizes asked for, with its palette."""
    sizes = settings.sizes()
    if settings.palette is None:
        images = training_images(data, data_set, sizes["image_size"], MAX_IMAGES, settings.seed)
        palette = igpt_keras.ColorPalette.fit(images, settings.num_colors, settings.seed)
    else:
        palette, _ = read_palette(settings.palette)
    config = igpt_keras.ImageGPTConfig(vocabulary_size=palette.num_colors, **sizes)
    keras.utils.set_random_seed(settings.seed)
    return igpt_keras.ImageGPT(
        config,
        settings.objective,
        mask_probability=settings.mask_probability,
        palette=palette,
        dtype=precision,
    )


def _train(
    model: igpt_keras.ImageGPT,
    data: DataOptions,
    data_set: DataSet,
    held_out: Part,
    settings: Settings,
    clip_norm: float | None,
    run: pathlib.Path,
) -> dict[str, Any]:
    """Trains and saves `model`; the figures of a result."""
    encoding = (model.palette, model.config.image_size)
    stream = data.stream(
        data_set,
        *encoding,
        settings.batch_size,
        settings.seed,
        labels=False,
        mask_probability=model.mask_probability if model.objective == "bert" else None,
    )
    total_steps = settings.steps or round(settings.epochs * stream.steps_per_epoch)
    intervals = _intervals(total_steps, stream.steps_per_epoch, settings.checkpoints)
    click.echo(
        f"{model.count_params():,} parameters, {total_steps} steps of {settings.batch_size} images"
    )
    tokens = data.encode(held_out, *encoding).tokens
    about = {"name": run.name, "data": data_set.describe()["name"], "command": command_line()}
    keep = {intervals["epochs"] >> halvings for halvings in range(settings.checkpoints)}
    saving = Checkpoints(run / CHECKPOINTS, keep, about)
    start = time.monotonic()
    with ProgressBar(run.name, ("loss", "val_loss")) as bar, data.decoder.naming_errors():
        history = pretrain_model(
            model,
            share_out(partial(stream.dataset, 0), model.distribute_strategy),
            masked_inputs(model, tokens, settings.seed),
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            clip_norm=clip_norm,
            seed=settings.seed,
            callbacks=[saving, bar],
            verbose=0,
            **intervals,
        )
    seconds = time.monotonic() - start
    last = saving.saved[-1]
    measured = {"step": last["step"], "validation_loss": last["validation_loss"]}
    folder.save(model, run / folder.MODEL_FOLDER, {**about, **measured, "history": history})
    return {
        **_losses(history, saving, intervals["steps_per_epoch"], run),
        "test_loss": _test_loss(model, data, data_set, settings.batch_size),
        "images_per_second": last["step"] * settings.batch_size / seconds,
        "minutes": seconds / 60,
    }


def _intervals(total_steps: int, steps_of_data: int, checkpoints: int) -> dict[str, int]:
    """Arguments of `pretrain`: Keras' epochs are the intervals between two evaluations.

    There are 2^(`checkpoints` - 1), so that every checkpoint is at the end of one.
    """
    intervals = 2 ** (checkpoints - 1)
    if total_steps < intervals:
        raise InputError(
            f"{total_steps} steps are too few for checkpoints={checkpoints}, "
            f"which needs {intervals} or more"
        )
    return {
        "epochs": intervals,
        "steps_per_epoch": total_steps // intervals,
        "warmup_steps": min(steps_of_data, total_steps),
    }


def _losses(
    history: dict[str, list[float]], saving: Checkpoints, interval: int, output: pathlib.Path
) -> dict[str, Any]:
    """The figures of a result that are losses, in nats per pixel."""
    steps = [(index + 1) * interval for index in range(len(history["loss"]))]
    return {
        "history": {"step": steps, "loss": history["loss"], "val_loss": history["val_loss"]},
        "validation_loss": saving.saved[-1]["validation_loss"],
        "checkpoints": [
            {**saved, "path": str(pathlib.Path(saved["path"]).relative_to(output))}
            for saved in saving.saved
        ],
    }


def _test_loss(model, data: DataOptions, data_set: DataSet, batch_size: int) -> float | None:
    """The generative loss in nats per pixel on the test part, if there is one."""
    if data_set.test is None:
        return None
    tokens = data.encode(data_set.test, model.palette, model.config.image_size).tokens
    return model.evaluate(tokens, batch_size=batch_size, verbose=0, return_dict=True)["loss"]


def _draw(
    model: igpt_keras.ImageGPT, data: DataOptions, held_out: Part, run: pathlib.Path, seed: int
) -> None:
    """Writes completions.png and samples.png, of an autoregressive model."""
    if model.objective != "ar":
        return
    size, keep_rows = model.config.image_size, model.config.image_size // 2
    images = read_images(held_out, size, limit=PICTURED, seed=seed, **data.reading()).images
    completions = igpt_keras.complete(model, None, images, keep_rows, COMPLETIONS_EACH, seed=seed)
    rows = [
        [original, keep_top(original, keep_rows), *completed]
        for original, completed in zip(images, completions.images, strict=True)
    ]
    save_png(contact_sheet(rows, ["original", "kept", "completions"]), run / "completions.png")
    samples = igpt_keras.sample(model, None, SAMPLES, seed=seed).images[:, 0]
    save_png(contact_sheet(np.array_split(samples, 5)), run / "samples.png")
