"""Options that several commands share."""

import dataclasses
import functools
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

import click

from igpt_keras.data.decoding import Decoder
from igpt_keras.data.open import DataSet, open_data
from igpt_keras.data.parts import Part
from igpt_keras.data.pipeline import TrainingStream, encode
from igpt_keras.data.splits import LabelledTokens
from igpt_keras.models import GenerativeModel
from igpt_keras.palette import ColorPalette
from igpt_keras.training.progress import FORMS
from igpt_keras.training.strategies import STRATEGIES


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """What the user said of the data.

    Attributes:
        data: one or more sources, in the notation of `open_data`.
        data_dir: where TFDS keeps its sets.
        fold_validation: whether the validation part is trained on.
        augmentation: name of the augmentation; its evaluation crops all else.
        split_seed: of which images are held out.
        cache: folder of encoded tokens, or None.
        decoder: keeps account of bad images.
    """

    data: tuple[str, ...]
    data_dir: str | None
    fold_validation: bool
    augmentation: str
    split_seed: int
    cache: pathlib.Path | None
    decoder: Decoder

    def open(self) -> DataSet:
        return open_data(
            self.data,
            data_dir=self.data_dir,
            fold_validation=self.fold_validation,
            seed=self.split_seed,
        )

    def reading(self) -> dict[str, Any]:
        """Arguments of `read_images` and `encode` that the user chose."""
        return {"augmentation_name": self.augmentation, "decoder": self.decoder}

    def encode(self, part: Part, palette: ColorPalette, image_size: int) -> LabelledTokens:
        return encode(
            part,
            palette,
            image_size,
            cache=self.cache,
            **self.reading(),
        )

    def stream(
        self,
        data_set: DataSet,
        palette: ColorPalette,
        image_size: int,
        batch_size: int,
        seed: int,
        labels: bool,
        mask_probability: float | None,
    ) -> TrainingStream:
        """Batches to train on: with labels for fine-tuning, with masks for BERT."""
        if labels:
            data_set.labelled_train()
        return TrainingStream(
            data_set.ingredients,
            palette,
            image_size,
            batch_size,
            augmentation=self.augmentation,
            seed=seed,
            labels=labels,
            mask_probability=mask_probability,
            decoder=self.decoder,
            cache=self.cache,
        )

    def report_bad_images(self) -> None:
        """Says on stderr which images were skipped."""
        if self.decoder.bad:
            click.echo(f"skipped {len(self.decoder.bad)} bad images:", err=True)
        for name, reason in self.decoder.bad.items():
            click.echo(f"  {name}: {reason}", err=True)


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How training runs: `precision` and `clip_norm` change its result, the rest does not.

    Attributes:
        strategy: as `make_strategy` takes it.
        precision: name of a Keras dtype policy.
        micro_batches: see `DistributedTrainer`.
        remat: see `ImageGPTBackbone`.
        clip_norm: the largest global norm of a gradient, or None.
        guard: whether a loss that does not come down again ends the training.
        progress: form of the `ProgressBar`.
    """

    strategy: str
    precision: str
    micro_batches: int
    remat: bool
    clip_norm: float | None
    guard: bool
    progress: str

    def prepare(self, model: GenerativeModel) -> None:
        """Sets what the training step of `model` reads."""
        model.micro_batches = self.micro_batches
        model.backbone.remat = self.remat

    def say(self, message: str) -> None:
        """Prints what a person may want to know; not where --progress asks for quiet."""
        if self.progress != "quiet":
            self.conclude(message)

    def conclude(self, message: str) -> None:
        """Prints what the training came to; on stderr where the standard output is JSON."""
        click.echo(message, err=self.progress == "json")


DATA_OPTIONS = (
    click.option(
        "--data",
        multiple=True,
        required=True,
        metavar="SOURCE",
        help="Images: digits, folder:PATH, …; several are mixed. See `docs/data.md`.",
    ),
    click.option("--data-dir", metavar="DIR", help="Where TFDS keeps its sets."),
    click.option("--fold-validation", is_flag=True, help="Train on the validation part as well."),
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
        return DataOptions(**options, decoder=Decoder(skip_bad_images))

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
        "--guard/--no-guard",
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


def output_option(of: str = "Folder to write to.") -> Callable:
    """--output or --out, a path that the command makes."""
    path = click.Path(path_type=pathlib.Path)
    return click.option("output", "--output", "--out", required=True, type=path, help=of)


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
    return click.option("--batch-size", type=size, default=128, show_default=True, help=of)


def command_line() -> str:
    """The command line as typed, for whoever wants to repeat it."""
    return shlex.join(["igpt", *sys.argv[1:]])
