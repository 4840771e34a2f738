"""Completion: images of which some pixels are known, and images from nothing, as PNG files.

Metrics of the result: `completions`, a list with a dictionary for each file:

| key | value |
| --- | --- |
| `file` | name of the PNG in the run's folder |
| `log_likelihood`, `bits_per_sampled_pixel` | of sampled tokens, in nats and bits / unknown pixel |
| `total_log_likelihood`, `bits_per_pixel` | of all tokens, in nats and bits / R²; not for BERT |
| `label` | name of the class, where one was asked for |
"""

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from igpt_keras.data.image_decoding import read_image
from igpt_keras.data.sample_sets import SAMPLES_FILE, write_sample_set
from igpt_keras.errors import InputError
from igpt_keras.models import load
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.pictures.colors import warn_of_colors
from igpt_keras.pictures.completions import (
    check_scale,
    completion_names,
    entropy_sheet,
    known_rows,
    sample_entropy_sheet,
    write_completions,
    write_samples,
)
from igpt_keras.pictures.contact_sheets import save_png
from igpt_keras.runs.callbacks import Callbacks, report_progress
from igpt_keras.runs.options import ModelOptions
from igpt_keras.runs.result import Result, describe_model
from igpt_keras.runs.run import Measurement
from igpt_keras.runs.tokenizers import load_with_tokenizer
from igpt_keras.sampling.drafts import Draft, NeighborDraft
from igpt_keras.sampling.requests import Completions, class_numbers
from igpt_keras.sampling.samplers import Categorical, Sampler
from igpt_keras.saving import TOKENIZER_ERROR, read_training
from igpt_keras.stages import stage
from igpt_keras.tokenizers.base import tokenizer_of
from igpt_keras.wording import plural

ENTROPY_FILE = "entropy.png"
PRECISIONS = ("float32", "bfloat16")
# More sequences take more memory and little less time each.
SEQUENCES_AT_ONCE = 32
# Lighter pixels of a mask are sampled.
WHITE = 128


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class SamplingOptions(ModelOptions):
    """Options that completions and samples share.

    Attributes:
        model: Path of the model.
        sampler: How pixels are drawn.
        precision: "float32" or "bfloat16", the type of the model's weights and of its
            computation; None for the model's own.
        draft: Path of a smaller model, or of a draft that `igpt draft` wrote, or None.
        num_steps: Steps in which a BERT model fills the pixels; None for the default.
        entropy: Whether to draw the entropy of each sampled pixel, as `entropy.png`.
        scale: Factor, at most 64, by which each side of the PNGs is enlarged.
        seed: Seed of the first image; the next image has the next seed.
        labels: Classes of a class-conditional model, by name or number, which the images take in
            turn; none for images of any class.
        guidance_scale: How much the class counts; see `generate`.

    Raises:
        InputError: `precision` is unknown, or `scale` is out of range.
    """

    sampler: Sampler = Categorical()
    precision: str | None = None
    draft: str | os.PathLike | None = None
    num_steps: int | None = None
    entropy: bool = False
    scale: int = 1
    seed: int = 0
    labels: Sequence[str | int] = ()
    guidance_scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.precision not in (None, *PRECISIONS):
            raise InputError(f"precision must be {' or '.join(PRECISIONS)}, got {self.precision!r}")
        check_scale(self.scale)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Settings(SamplingOptions):
    """Settings of completions; the others stand in `SamplingOptions`.

    Attributes:
        keep_rows: Number of rows of the model's input that are known; None for half of them.
        mask: Path of an image that is white where pixels are to be sampled, instead of
            `keep_rows`.
        num_completions: Number of completions of each image.

    Raises:
        InputError: Both `keep_rows` and `mask` are given.
    """

    keep_rows: int | None = None
    mask: str | os.PathLike | None = None
    num_completions: int = 4

    def __post_init__(self):
        super().__post_init__()
        if self.keep_rows is not None and self.mask is not None:
            raise InputError(
                f"give either keep_rows or mask, got keep_rows={self.keep_rows} and "
                f"mask={self.mask}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class SampleSettings(SamplingOptions):
    """Settings of samples; the others stand in `SamplingOptions`.

    Attributes:
        num_samples: Number of images.
    """

    num_samples: int = 16


class _Generation(Measurement):
    """What completions and samples share."""

    model: Any

    def _load(self) -> None:
        dtype = {} if self.settings.precision is None else {"dtype": self.settings.precision}
        self.model = load_with_tokenizer(self.settings.model, **dtype)
        self.image_size = self.model.config.image_size
        self.classes = _class_numbers(self.model, self.settings.labels)
        self._load_images()
        self.draft = None if self.settings.draft is None else read_draft(self.settings.draft)

    def _load_images(self) -> None:
        """Reads the images."""

    def _generate(self, images: np.ndarray, callbacks: Callbacks, **settings) -> Completions:
        """Completes images group by group, so that memory does not grow with their number.

        Args:
            images: uint8 [B, R, R, 3].
            callbacks: Callbacks that hear of each row.
            **settings: Further arguments of `generate`.
        """
        count = settings.get("num_completions", 1)
        at_once = max(SEQUENCES_AT_ONCE // max(count, 1), 1)
        groups = np.split(np.arange(len(images)), range(at_once, len(images), at_once))
        self.labels = np.resize(self.classes, len(images)) if len(self.classes) else None
        done, total = 0, self.image_size * len(groups)

        def on_row(row, pixels):
            nonlocal done
            done += 1
            report_progress(callbacks, "rows", done, total)

        # A BERT model fills all rows together. Reporting rows takes time.
        tokenizer = tokenizer_of(self.model)
        reports = (
            self.model.objective == "ar"
            and tokenizer.final_rows(tokenizer.grid[0] - 1) > 0
            and any(hasattr(callback, "on_progress") for callback in callbacks)
        )
        arguments = {"sampler": self.settings.sampler, "draft": self.draft, **settings}
        arguments |= {"num_steps": self.settings.num_steps, "on_row": on_row if reports else None}
        arguments["guidance_scale"] = self.settings.guidance_scale
        sampling = stage(f"sampling {plural(count * len(images), 'image')}")
        with contextlib.nullcontext() if reports else sampling:
            return _joined(
                [
                    self.model.generate(
                        images[g],
                        seed=self.settings.seed + g,
                        labels=None if self.labels is None else self.labels[g],
                        **arguments,
                    )
                    for g in groups
                ]
            )

    def _records(
        self, completions: Completions, names: Sequence[Sequence[str]], num_sampled: int
    ) -> list[dict[str, Any]]:
        """Returns `likelihoods`, with the name of the class where one was asked for."""
        records = likelihoods(completions, names, num_sampled)
        if self.labels is not None:
            per_image, names_of_classes = completions.tokens.shape[1], self.model.class_names
            for record, label in zip(records, self.labels.repeat(per_image), strict=True):
                record["label"] = names_of_classes[label]
        return records

    def _result(self, data: dict[str, Any], records: list[dict[str, Any]]) -> Result:
        settings = dataclasses.asdict(self.settings)
        del settings["model"]
        settings["labels"] = list(self.settings.labels)
        for name in ("draft", "mask"):
            if settings.get(name) is not None:
                settings[name] = os.fspath(settings[name])
        return Result(
            kind=self.kind,
            command=self.command,
            model=describe_model(self.model, self.settings.model),
            data=data,
            settings=settings,
            metrics={"completions": records},
        )


class Complete(_Generation):
    """Keeps the known pixels of image files and lets a model sample the others.

    An `InputWarning` names images whose colors are far from the model's.

    `data` of `open` are the paths of the images, of any format and size: they are cropped to a
    square and averaged down to the model's input. Writes a PNG for each completion, a contact
    sheet of all, and `result.json`.
    """

    kind = "complete"
    Settings = Settings

    @classmethod
    def _data_options(cls, data: Sequence[str | os.PathLike]) -> list[pathlib.Path]:
        return [pathlib.Path(path) for path in data]

    def _load_images(self) -> None:
        size, settings = self.image_size, self.settings
        if not self.data:
            raise InputError("data must name at least one image, got none")
        self.originals = np.stack([read_image(path, size) for path in self.data])
        if settings.mask is not None:
            self.known_mask = read_mask(settings.mask, size)
        else:
            self.known_mask = known_rows(size, self._keep_rows)

    @property
    def _keep_rows(self) -> int:
        keep_rows = self.settings.keep_rows
        return self.image_size // 2 if keep_rows is None else keep_rows

    def _measure(self, folder: pathlib.Path, callbacks: Callbacks) -> Result:
        settings = self.settings
        known = {"keep_rows": self._keep_rows}
        if settings.mask is not None:
            known = {"known_mask": self.known_mask}
        completions = self._generate(
            self.originals, callbacks, num_completions=settings.num_completions, **known
        )
        self._warn_of_colors()
        names = completion_names(self.data, settings.num_completions)
        shown = (self.originals, completions.images, self.known_mask)
        title = f"Completions by {settings.model}"
        write_completions(folder, names, *shown, title=title, scale=settings.scale)
        if settings.entropy:
            assert completions.entropy is not None
            sheet = entropy_sheet(*shown, completions.entropy, title=title, names=names)
            save_png(sheet, folder / ENTROPY_FILE)
        records = self._records(completions, names, int((~self.known_mask).sum()))
        return self._result({"images": [str(path) for path in self.data]}, records)

    def _warn_of_colors(self) -> None:
        usual = read_training(self.settings.model).get(TOKENIZER_ERROR)
        errors = tokenizer_of(self.model).reconstruction_error(self.originals)
        for path, error in zip(self.data, errors, strict=True):
            warn_of_colors(path, error, usual if isinstance(usual, float) else None)


class Sample(_Generation):
    """Lets a model sample images from nothing; `data` of `open` is None.

    Writes a PNG for each image, a contact sheet of all, all images as `samples.npz` (see
    `SampleSet`), and `result.json`.
    """

    kind = "sample"
    Settings = SampleSettings

    @classmethod
    def _data_options(cls, data: None) -> None:
        if data is not None:
            raise InputError(f"samples come from nothing: data must be None, got {data}")

    def _measure(self, folder: pathlib.Path, callbacks: Callbacks) -> Result:
        size = self.image_size
        blank = np.zeros((self.settings.num_samples, size, size, 3), np.uint8)
        samples = self._generate(blank, callbacks, keep_rows=0)
        title = f"Samples from {self.settings.model}"
        scale = self.settings.scale
        names = write_samples(folder, samples.images[:, 0], title=title, scale=scale)
        write_sample_set(folder / SAMPLES_FILE, samples.images[:, 0])
        if self.settings.entropy:
            assert samples.entropy is not None
            sheet = sample_entropy_sheet(samples.entropy[:, 0], size, title)
            save_png(sheet, folder / ENTROPY_FILE)
        names = [[name] for name in names]
        return self._result({}, self._records(samples, names, size * size))


def _class_numbers(model: GenerativeModel, labels: Sequence[str | int]) -> list[int]:
    """Returns the classes of a model that are given by name or number.

    Raises:
        InputError: The model is not conditioned on classes, or has no such class.
    """
    if not len(labels):
        return []
    if model.config.num_classes is None:
        raise InputError(
            "labels needs a model that was pre-trained with class_conditional, "
            f"got labels={', '.join(map(str, labels))}"
        )
    names: Any = model.class_names
    return class_numbers(labels, names)


def read_mask(path: str | os.PathLike, size: int) -> np.ndarray:
    """Returns the known pixels, bool [size, size], by an image that is white elsewhere."""
    return read_image(path, size).mean(axis=-1) < WHITE


def read_draft(path: str | os.PathLike) -> Draft | GenerativeModel:
    """Reads a draft that `igpt draft` wrote, or a model."""
    if pathlib.Path(path).suffix == NeighborDraft.SUFFIX:
        return NeighborDraft.load(path)
    return load(path)


def likelihoods(
    completions: Completions, names: Sequence[Sequence[str]], num_sampled: int
) -> list[dict[str, Any]]:
    """Returns the log-likelihoods of every completion, in nats and in bits per pixel.

    Args:
        completions: N completions of each of B images.
        names: B lists of N file names.
        num_sampled: Number of unknown pixels of each image.
    """
    num_pixels = math.prod(completions.images.shape[-3:-1])
    records = []
    for image, of_image in enumerate(names):
        for number, name in enumerate(of_image):
            sampled = float(completions.log_likelihood[image, number])
            record = {"file": name, "log_likelihood": sampled}
            record["bits_per_sampled_pixel"] = _bits(sampled, num_sampled)
            if completions.total_log_likelihood is not None:
                total = float(completions.total_log_likelihood[image, number])
                record |= {
                    "total_log_likelihood": total,
                    "bits_per_pixel": _bits(total, num_pixels),
                }
            records.append(record)
    return records


def _bits(log_likelihood: float, num_pixels: int) -> float | None:
    return -log_likelihood / math.log(2) / num_pixels if num_pixels else None


def _joined(groups: Sequence[Completions]) -> Completions:
    """Returns the completions of several groups of images as those of one."""
    values = {
        field.name: [getattr(group, field.name) for group in groups]
        for field in dataclasses.fields(Completions)
    }
    passes = sum(values.pop("num_forward_passes"))
    arrays: dict[str, Any] = {
        name: None if each[0] is None else np.concatenate(each) for name, each in values.items()
    }
    return Completions(**arrays, num_forward_passes=passes)
