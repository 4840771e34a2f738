"""Options that several commands share."""

import pathlib
from typing import Any

import click

from igpt_keras import paper
from igpt_keras.cli.command import OptionGroup, argument, option

SHIPPED_MODEL = "image_gpt_nano"
"""The model of this package, weights included, that commands use where none is named."""

PATH = click.Path(path_type=pathlib.Path)
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0)
POSITIVE = click.FloatRange(min=0, min_open=True)


def _data_options(skip_bad_images: bool, **values: Any):
    from igpt_keras.data.image_decoding import ImageDecoder
    from igpt_keras.runs.options import DataOptions

    return DataOptions(**values, decoder=ImageDecoder(skip_bad_images))


DATA = OptionGroup(
    "data",
    (
        option(
            "--data",
            multiple=True,
            required=True,
            metavar="SOURCE",
            help="Source of images, such as digits, folder:PATH, tfds:NAME or hf:NAME. Give "
            "several to mix them.",
        ),
        option(
            "--data-dir",
            metavar="DIR",
            help="Folder of TensorFlow Datasets' data sets, or cache of Hugging Face's.",
        ),
        option(
            "--train-on-validation", is_flag=True, help="Train on the validation images as well."
        ),
        option(
            "--augmentation",
            default="none",
            metavar="NAME",
            help="Augmentation of training images: none, imagenet, cifar or a plug-in's. "
            "Evaluation crops images to match.",
        ),
        option(
            "--split-seed",
            type=SEED,
            default=0,
            help="Random seed for choosing the validation images.",
        ),
        option(
            "--cache",
            type=PATH,
            metavar="DIR",
            help="Folder that keeps tokenized images for the next run.",
        ),
        option(
            "--skip-bad-images",
            is_flag=True,
            help="Skip images that cannot be decoded, and list them at the end.",
        ),
    ),
    _data_options,
)

# For commands that prepare one source at a time.
ONE_SOURCE = OptionGroup(
    DATA.into,
    (
        option(
            "--data",
            required=True,
            metavar="SOURCE",
            help="Source of images, such as digits, folder:PATH or tfds:NAME.",
        ),
        *(each for each in DATA.options if each.name not in ("data", "cache")),
    ),
    DATA.make,
)

# For commands whose work has no tokens to keep.
IMAGE_DATA = OptionGroup(
    DATA.into, tuple(each for each in DATA.options if each.name != "cache"), DATA.make
)

PROGRESS = option(
    "--progress",
    type=click.Choice(["auto", "json", "quiet"]),
    default="auto",
    help="How to show progress: auto is a bar at a terminal and plain lines elsewhere; json is one "
    "object per line.",
)


class CountOrAuto(click.IntRange):
    """A positive number, or `auto`."""

    name = "integer or auto"

    def __init__(self):
        super().__init__(min=1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the number, or "auto"."""
        return value if value == "auto" else super().convert(value, param, ctx)


class Names(click.ParamType):
    """Names that are separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the names as a list."""
        return value.split(",") if isinstance(value, str) else value


TRAINING = (
    option(
        "--strategy",
        type=click.Choice(["auto", "none", "mirrored", "multi-worker", "tpu"]),
        default="auto",
        help="Devices to train on. The batch size is the total over all devices.",
    ),
    option(
        "--precision",
        type=click.Choice(["float32", "mixed_bfloat16", "mixed_float16"]),
        default="float32",
        help="Compute precision. Weights, norms, softmax and losses stay in float32.",
    ),
    option(
        "--stop-on-divergence/--no-stop-on-divergence",
        default=True,
        help="Stop with exit status 3 if the loss is not finite or spikes without recovering.",
    ),
    option(
        "--checkpoint-every",
        type=COUNT,
        default=1000,
        help="Number of steps between two checkpoints, from which --resume continues.",
    ),
    option(
        "--max-checkpoints",
        type=COUNT,
        default=2,
        help="Number of most recent checkpoints to keep.",
    ),
    option(
        "--log-every",
        type=COUNT,
        default=10,
        help="Number of steps between two lines of history.jsonl.",
    ),
)

MODEL_TRAINING = (
    option(
        "--micro-batches",
        type=CountOrAuto(),
        default="auto",
        help="Number of parts of a batch to process one after another, to save memory; auto is the "
        "smallest number that fits into the host's memory, on accelerators 1.",
    ),
    option(
        "--remat",
        is_flag=True,
        help="Recompute activations in the backward pass, to save memory.",
    ),
    option(
        "--clip-norm",
        type=POSITIVE,
        show_default="no clipping",
        help="Maximum global norm of the gradient.",
    ),
    *TRAINING,
)

MODEL_PRECISION = option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    show_default="the model's own",
    help="Type of the model's weights and of its computation. With bfloat16 the weights take half "
    "the memory; probabilities stay in float32.",
)

MODEL = argument("model")
MODEL_OR_SHIPPED = argument("model", default=SHIPPED_MODEL)
IMAGES = argument("images", nargs=-1, required=True, type=PATH)


def output(of: str = "Folder to write the results to.", default: str | None = None) -> click.Option:
    """Returns --output, a path that the command creates; required without a default."""
    return option("--output", required=default is None, default=default, type=PATH, help=of)


def overwrite(of: str = "Replace an existing output folder.") -> click.Option:
    """Returns --overwrite, without which nothing is replaced."""
    return option("--overwrite", is_flag=True, help=of)


def seed(of: str = "Random seed.") -> click.Option:
    """Returns --seed."""
    return option("--seed", type=SEED, default=0, help=of)


def batch_size(of: str = "Number of images per training step.") -> click.Option:
    """Returns --batch-size."""
    return option("--batch-size", type=COUNT, default=paper.BATCH_SIZE, help=of)
