"""`igpt pretrain`: images in, a generative model out."""

import pathlib
import shutil
import time
from typing import Any

import click
import keras
import numpy as np

import igpt_keras
from igpt_keras import folder
from igpt_keras.atomic import check_replaceable
from igpt_keras.cli.options import (
    DataOptions,
    batch_size_option,
    command_line,
    data_options,
    output_option,
    overwrite_option,
    seed_option,
)
from igpt_keras.cli.palette import MAX_IMAGES, read_palette, training_images
from igpt_keras.config import OBJECTIVES, PRESETS
from igpt_keras.data.open import DataSet
from igpt_keras.data.parts import Part
from igpt_keras.data.pipeline import read_images
from igpt_keras.errors import InputError
from igpt_keras.evaluation.results import Result, describe_model, write_result
from igpt_keras.pictures import contact_sheet, keep_top, save_png
from igpt_keras.training.checkpoints import Checkpoints
from igpt_keras.training.pretraining import pretrain as pretrain_model
from igpt_keras.training.progress import ProgressBar

CHECKPOINTS = "checkpoints"
PICTURED, COMPLETIONS_EACH, SAMPLES = 8, 6, 40


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
@seed_option()
@overwrite_option("Replace an earlier run.")
def pretrain(
    data: DataOptions,
    output: pathlib.Path,
    objective: str,
    image_size: int | None,
    preset: str | None,
    num_layers: int | None,
    hidden_dim: int | None,
    num_heads: int | None,
    palette: str | None,
    num_colors: int,
    epochs: float | None,
    steps: int | None,
    batch_size: int,
    learning_rate: float,
    mask_probability: float,
    checkpoints: int,
    seed: int,
    overwrite: bool,
):
    """Train an Image GPT on images, without labels.

    Writes the run's folder: the model, checkpoints on the way, completions and samples,
    and result.json with the losses.
    """
    check_replaceable(output, overwrite, marker=CHECKPOINTS)
    if (epochs is None) == (steps is None):
        raise click.UsageError("give either --epochs or --steps")
    if checkpoints < 1:
        raise InputError(f"checkpoints must be at least 1, got {checkpoints}")
    data_set = data.open()
    held_out = _held_out(data_set)
    sizes = {"num_layers": num_layers, "hidden_dim": hidden_dim, "num_heads": num_heads}
    sizes = _sizes(preset, {**sizes, "image_size": image_size})
    if palette is None:
        images = training_images(data, data_set, sizes["image_size"], MAX_IMAGES, seed)
        colors = igpt_keras.ColorPalette.fit(images, num_colors, seed)
    else:
        colors, _ = read_palette(palette)
    config = igpt_keras.ImageGPTConfig(vocabulary_size=colors.num_colors, **sizes)
    stream = data.stream(data_set, colors, config.image_size, batch_size, seed, labels=False)
    total_steps = steps or round(epochs * stream.steps_per_epoch)
    settings = {
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        **_intervals(total_steps, stream.steps_per_epoch, checkpoints),
    }
    keras.utils.set_random_seed(seed)
    model = igpt_keras.ImageGPT(
        config, objective, mask_probability=mask_probability, palette=colors
    )
    click.echo(f"{model.count_params():,} parameters, {total_steps} steps of {batch_size} images")
    validation = data.encode(held_out, colors, config.image_size).tokens

    if output.exists():
        shutil.rmtree(output)
    (output / CHECKPOINTS).mkdir(parents=True)
    training = {"name": output.name, "data": data_set.describe()["name"], "command": command_line()}
    keep = {settings["epochs"] >> halvings for halvings in range(checkpoints)}
    saving = Checkpoints(output / CHECKPOINTS, keep, training)
    start = time.monotonic()
    with ProgressBar(output.name, ("loss", "val_loss")) as bar, data.decoder.naming_errors():
        history = pretrain_model(
            model, stream.dataset(), validation, callbacks=[saving, bar], verbose=0, **settings
        )
    seconds = time.monotonic() - start
    last = saving.saved[-1]
    about = {"step": last["step"], "validation_loss": last["validation_loss"], "history": history}
    folder.save(model, output / folder.MODEL_FOLDER, {**training, **about})
    images = read_images(held_out, config.image_size, limit=PICTURED, seed=seed, **data.reading())
    _draw(model, images.images, output, seed)
    result = Result(
        "pretrain",
        command_line(),
        describe_model(model, output),
        data_set.describe(),
        {**settings, "objective": objective, "augmentation": data.augmentation},
        {
            **_losses(history, saving, settings["steps_per_epoch"], output),
            "test_loss": _test_loss(model, data, data_set, batch_size),
            "images_per_second": last["step"] * batch_size / seconds,
            "minutes": seconds / 60,
        },
    )
    write_result(result, output)
    data.report_bad_images()
    click.echo(f"validation loss {last['validation_loss']:.4f} nats per pixel; wrote {output}")


def _held_out(data_set: DataSet) -> Part:
    """The images whose loss is followed: the validation part, or, where it is folded, the test."""
    held_out = data_set.validation or data_set.test
    if held_out is None:
        raise InputError("fold_validation leaves nothing to validate on: there is no test part")
    return held_out


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


def _sizes(preset: str | None, given: dict[str, int | None]) -> dict[str, int]:
    """Arguments of `ImageGPTConfig`: those of the preset, unless given."""
    sizes = dict(PRESETS[preset]) if preset else {}
    sizes |= {name: size for name, size in given.items() if size is not None}
    missing = [name.replace("_", "-") for name in given if name not in sizes]
    if missing:
        raise InputError(f"without --preset, give --{', --'.join(missing)} as well")
    return sizes


def _test_loss(model, data: DataOptions, data_set: DataSet, batch_size: int) -> float | None:
    """The generative loss in nats per pixel on the test part, if there is one."""
    if data_set.test is None:
        return None
    tokens = data.encode(data_set.test, model.palette, model.config.image_size).tokens
    return model.evaluate(tokens, batch_size=batch_size, verbose=0, return_dict=True)["loss"]


def _draw(model, images: np.ndarray, output: pathlib.Path, seed: int) -> None:
    """Writes completions.png and samples.png, of an autoregressive model."""
    if model.objective != "ar":
        return
    keep_rows = model.config.image_size // 2
    completions = igpt_keras.complete(model, None, images, keep_rows, COMPLETIONS_EACH, seed=seed)
    rows = [
        [original, keep_top(original, keep_rows), *completed]
        for original, completed in zip(images, completions.images, strict=True)
    ]
    save_png(contact_sheet(rows, ["original", "kept", "completions"]), output / "completions.png")
    samples = igpt_keras.sample(model, None, SAMPLES, seed=seed).images[:, 0]
    save_png(contact_sheet(np.array_split(samples, 5)), output / "samples.png")
