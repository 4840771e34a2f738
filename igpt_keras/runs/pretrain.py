"""Pre-training: images in, the folder of a run out, which can be gone on with."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import igpt_keras
from igpt_keras import paper, saving
from igpt_keras.data.data_set import DataSet
from igpt_keras.data.splits import Split
from igpt_keras.data.stream import TrainingStream
from igpt_keras.data.tokenization import read_images
from igpt_keras.errors import InputError
from igpt_keras.models.masking import masked_inputs
from igpt_keras.network.config import PRESETS
from igpt_keras.pictures import contact_sheet, keep_top, save_png
from igpt_keras.runs.folder import (
    PALETTE_FILE,
    SNAPSHOTS,
    create_run,
    only_writer,
    read_run,
    remove_checkpoints,
)
from igpt_keras.runs.options import DataOptions, TrainingOptions
from igpt_keras.runs.recording import RecordingSettings, recording, stopping
from igpt_keras.runs.result import Result, describe_model, write_result
from igpt_keras.runs.tokenizers import MAX_IMAGES, read_palette, training_images
from igpt_keras.training.callbacks.history_logger import read_history
from igpt_keras.training.callbacks.progress_bar import ProgressBar
from igpt_keras.training.callbacks.snapshots import Snapshots
from igpt_keras.training.recipes import pretrain
from igpt_keras.training.strategies import distribute, is_chief

KIND = "pretrain"
PICTURED, COMPLETIONS_EACH, SAMPLES = 8, 6, 40


@dataclasses.dataclass(frozen=True)
class Settings(RecordingSettings):
    """The model and its training; see `igpt pretrain --help`.

    Raises:
        InputError: settings that contradict each other or are out of range.
    """

    objective: str = "ar"
    image_size: int | None = None
    preset: str | None = None
    num_layers: int | None = None
    hidden_dim: int | None = None
    num_heads: int | None = None
    palette: str | None = None
    num_colors: int = paper.PALETTE_SIZE
    epochs: float | None = None
    steps: int | None = None
    batch_size: int = paper.BATCH_SIZE
    learning_rate: float = paper.LEARNING_RATE
    mask_probability: float = paper.MASK_PROBABILITY
    snapshots: int = len(paper.SNAPSHOT_FRACTIONS)
    seed: int = 0

    def __post_init__(self):
        if (self.epochs is None) == (self.steps is None):
            raise InputError(
                f"give either --epochs or --steps, got epochs={self.epochs} and steps={self.steps}"
            )
        if self.snapshots < 1:
            raise InputError(f"snapshots must be at least 1, got {self.snapshots}")
        # Raises what is wrong with the sizes.
        igpt_keras.ImageGPTConfig(vocabulary_size=self.num_colors, **self.sizes())

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

        There are 2^(`snapshots` - 1), so that every snapshot is at the end of one.

        Args:
            steps_of_data: batches in a pass over the images.
        """
        total_steps = self.steps or round(self.epochs * steps_of_data)
        intervals = 2 ** (self.snapshots - 1)
        if total_steps < intervals:
            raise InputError(
                f"{total_steps} steps are too few for snapshots={self.snapshots}, "
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
        held_out: those whose loss is followed: the validation split, or, where it is folded,
            the test split.
    """

    options: DataOptions
    data_set: DataSet
    held_out: Split

    @classmethod
    def open(cls, options: DataOptions) -> "Images":
        data_set = options.open()
        held_out = data_set.validation or data_set.test
        if held_out is None:
            raise InputError(
                "train_on_validation leaves nothing to validate on: there is no test split"
            )
        return cls(options, data_set, held_out)

    def fingerprints(self) -> list[str]:
        """What changes when the images change."""
        splits = [*(each.split for each in self.data_set.sources), self.held_out]
        return [split.fingerprint() for split in splits]

    def stream(self, palette: igpt_keras.ColorPalette, settings: Settings) -> TrainingStream:
        return self.options.stream(
            self.data_set,
            palette.bind(settings.sizes()["image_size"]),
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
        palette: of the tokens.
    """

    command: str
    images: Images
    settings: Settings
    training: TrainingOptions
    output: pathlib.Path
    palette: igpt_keras.ColorPalette

    @classmethod
    def resume(
        cls, images: Images, settings: Settings, training: TrainingOptions, output: pathlib.Path
    ) -> "Run":
        """The run in `output`, to go on from its last state.

        Raises:
            InputError: `output` is no run, or one of other images.
        """
        begun = read_run(output, KIND)
        if begun["images"] != images.fingerprints():
            data = " ".join(images.options.data)
            raise InputError(f"the images of {data} are not those of {output}")
        palette = igpt_keras.ColorPalette.load(output / PALETTE_FILE)
        return cls(begun["command"], images, settings, training, output, palette)

    def create(self, overwrite: bool = False) -> None:
        """Begins the folder of a new run.

        Raises:
            InputError: settings that do not fit the number of images.
            FileExistsError: the folder exists and must not be replaced.
        """
        self.intervals()
        options = {
            **self.images.options.described(),
            **dataclasses.asdict(self.training),
            **dataclasses.asdict(self.settings),
        }
        images = self.images.fingerprints()
        about = {"command": self.command, "options": options, "images": images}
        create_run(self.output, KIND, about, self.palette, overwrite)

    def stream(self) -> TrainingStream:
        """The batches that it learns from."""
        return self.images.stream(self.palette, self.settings)

    def intervals(self) -> dict[str, int]:
        """As `Settings.intervals`."""
        return self.settings.intervals(self.stream().steps_per_epoch)

    def about(self) -> dict[str, Any]:
        """What a model folder says of its training."""
        name = self.images.data_set.describe()["name"]
        return {
            "name": self.output.name,
            "data": name,
            "command": self.command,
            "learning_rate": self.settings.learning_rate,
        }

    def finish(
        self,
        strategy: tf.distribute.Strategy,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> float:
        """Trains from the last state on, or from the beginning, and writes what comes of it.

        Args:
            strategy: that the model is made under.
            callbacks: of Keras, besides those that write the run.

        Returns: the validation loss after the last step, nats per pixel.

        Raises:
            InputError: another process trains in the folder.
            Interrupted: a signal told it to stop; its state is written.
            Diverged: as `DivergenceDetector`.
        """
        writes = is_chief(strategy)
        with only_writer(self.output) if writes else contextlib.nullcontext():
            with strategy.scope():
                model = _new_model(self.palette, self.settings, self.training.precision)
            saving = _train(model, self, callbacks)
            test_loss = _test_loss(model, self)
            if writes:
                _write(model, self, {**_metrics(saving, self), "test_loss": test_loss})
        return saving.saved[-1]["validation_loss"]


def find_palette(images: Images, settings: Settings) -> igpt_keras.ColorPalette:
    """The palette that `settings` ask for, or one fitted to the images."""
    if settings.palette is not None:
        return read_palette(settings.palette)[0]
    size = settings.sizes()["image_size"]
    pixels = training_images(images.options, images.data_set, size, MAX_IMAGES, settings.seed)
    return igpt_keras.ColorPalette.fit(pixels, settings.num_colors, settings.seed)


def _new_model(
    palette: igpt_keras.ColorPalette, settings: Settings, precision: str
) -> igpt_keras.ImageGPT:
    config = igpt_keras.ImageGPTConfig(vocabulary_size=palette.vocabulary_size, **settings.sizes())
    keras.utils.set_random_seed(settings.seed)
    return igpt_keras.ImageGPT(
        config,
        settings.objective,
        mask_probability=settings.mask_probability,
        tokenizer=palette,
        dtype=precision,
    )


def _train(
    model: igpt_keras.ImageGPT, run: Run, others: Sequence[keras.callbacks.Callback]
) -> Snapshots:
    """Trains `model`, from the last state on if there is one."""
    images, settings, training, output = run.images, run.settings, run.training, run.output
    stream, intervals = run.stream(), run.intervals()
    total_steps = intervals["epochs"] * intervals["steps_per_epoch"]
    strategy = model.distribute_strategy
    bar = ProgressBar(
        output.name, ("loss", "bits_per_pixel", "val_loss"), total_steps, training.progress
    )
    saving = Snapshots(
        output / SNAPSHOTS,
        {intervals["epochs"] >> halvings for halvings in range(settings.snapshots)},
        intervals["steps_per_epoch"],
        run.about(),
        writes=is_chief(strategy),
    )
    states = recording(
        output,
        settings,
        training,
        strategy,
        batch_size=settings.batch_size,
        total_steps=total_steps,
        listener=bar.show,
        pictures=partial(_pictures, run=run),
        others={"snapshots": saving},
    )
    training.say(
        f"{model.count_params():,} parameters, {total_steps} steps of {settings.batch_size} images"
    )
    tokens = images.options.tokenize(images.held_out, model.tokenizer).tokens
    with (
        bar,
        images.options.decoder.restore_errors(),
        stopping(states, strategy),
    ):
        pretrain(
            model,
            lambda step: distribute(partial(stream.dataset, step), strategy),
            masked_inputs(model, tokens, settings.seed),
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            clip_norm=training.clip_norm,
            remat=training.remat,
            micro_batches=training.micro_batches,
            seed=settings.seed,
            checkpoints=states,
            callbacks=[*states.callbacks.values(), bar, *others],
            verbose=0,
            **intervals,
        )
    return saving


def _metrics(saving: Snapshots, run: Run) -> dict[str, Any]:
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
        "snapshots": [{**saved, "path": f"{SNAPSHOTS}/{saved['path']}"} for saved in saving.saved],
        "best_checkpoint": {**saving.best, "path": f"{SNAPSHOTS}/{saving.best['path']}"},
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
    """The generative loss in nats per pixel on the test split, if there is one."""
    test = run.images.data_set.test
    if test is None:
        return None
    tokens = run.images.options.tokenize(test, model.tokenizer).tokens
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
    completions = model.generate(
        pixels, keep_rows=keep_rows, num_completions=COMPLETIONS_EACH, seed=seed
    )
    rows = [
        [original, keep_top(original, keep_rows), *completed]
        for original, completed in zip(pixels, completions.images, strict=True)
    ]
    return {"completions": contact_sheet(rows, ["original", "known", "completions"])}


def _write(model: igpt_keras.ImageGPT, run: Run, metrics: dict[str, Any]) -> None:
    """Writes what a finished run has: the model, pictures, and the result in the end."""
    history = metrics["history"]
    measured = {"step": history["step"][-1], "validation_loss": metrics["validation_loss"]}
    about = {**run.about(), **measured, "history": history}
    model.save_to_preset(run.output / saving.MODEL_FOLDER, training=about, overwrite=True)
    for name, picture in _pictures(model, run).items():
        save_png(picture, run.output / f"{name}.png")
    if model.objective == "ar":
        samples = model.sample(SAMPLES, seed=run.settings.seed).images[:, 0]
        save_png(contact_sheet(np.array_split(samples, 5)), run.output / "samples.png")
    result = Result(
        kind=KIND,
        command=run.command,
        model=describe_model(model, run.output),
        data=run.images.data_set.describe(),
        settings={
            **dataclasses.asdict(run.settings),
            **dataclasses.asdict(run.training),
            "augmentation": run.images.options.augmentation,
        },
        metrics=metrics,
    )
    write_result(result, run.output)
    remove_checkpoints(run.output)
