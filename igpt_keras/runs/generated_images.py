"""Generated images against real ones: the part of an evaluation that samples.

`metrics["samples"]` of the result: the fields of `SetDistances`; and under `real_images` the same
of as many real images, `num_images`, with the other `num_others`. They are at most half of the
reference; None where that are too few.
`settings["samples"]`:

| key | value |
| --- | --- |
| `samples` | `path` (None if sampled here), `seed`, `num_images`, `format`, `image_size` |
| `reference` | `split`, `name`, `num_images`, `fingerprint` |
| `features` | `extractor`, `name`, `is_published`, `dimension`, and what the extractor describes |
| `kernel_distance` | `num_subsets`, `subset_size` |
| `num_neighbors` | of precision and recall |
"""

import dataclasses
import os
import pathlib
import warnings
from typing import Any

import numpy as np

from igpt_keras.data.sample_sets import SAMPLES_FILE, SampleSet, write_sample_set
from igpt_keras.data.splits import Split
from igpt_keras.data.tokenization import image_batches
from igpt_keras.errors import InputError, InputWarning
from igpt_keras.evaluation.feature_extractors import extract_all, open_feature_extractor
from igpt_keras.evaluation.set_distances import (
    NUM_NEIGHBORS,
    NUM_SUBSETS,
    SetDistances,
    default_subset_size,
)
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.network.config import integer_of_at_least
from igpt_keras.runs.callbacks import Callbacks, report_progress
from igpt_keras.runs.options import DataOptions
from igpt_keras.runs.sampled_images import sample_into
from igpt_keras.sampling.checks import check_has_token_head
from igpt_keras.stages import stage
from igpt_keras.wording import plural

MIN_IMAGES = NUM_NEIGHBORS + 1
REFERENCES = ("train", "validation", "test")


class GeneratedImages:
    """Samples of a model, or a set of images from elsewhere, and the images they should resemble.

    Args:
        model: The model; all images are compared at its image size.
        data: Images that the reference is a split of.
        samples: Number of images to sample, or the path of a `SampleSet`.
        reference: "train", "validation" or "test"; None for the test split, or else the
            validation split.
        features: As for `open_feature_extractor`.
        seed: Seed of the first sample, and of random subsets.

    Raises:
        FileNotFoundError: There are no samples at the path.
        InputError: Something does not fit.
    """

    def __init__(
        self,
        model: GenerativeModel,
        data: DataOptions,
        *,
        samples: int | str | os.PathLike,
        reference: str | None,
        features: str,
        seed: int,
    ):
        self.model = model
        self.data = data
        self.seed = seed
        self.features = features
        self.sample_set: SampleSet | None = None
        if isinstance(samples, str | os.PathLike):
            self.sample_set = SampleSet(samples)
            self.num_samples = len(self.sample_set)
        else:
            self.num_samples = integer_of_at_least(MIN_IMAGES, "samples", samples)
        self.reference, self.split = _split_of(data, reference)
        for name, count in (
            (f"samples={samples}", self.num_samples),
            (self.split.name, self.split.num_examples),
        ):
            if count < MIN_IMAGES:
                raise InputError(f"{name} must have at least {MIN_IMAGES} images, got {count}")
        if self.sample_set is None:
            check_has_token_head(model)
        self.extractor = open_feature_extractor(features)

    def measure(
        self, folder: pathlib.Path, checkpoints: pathlib.Path, callbacks: Callbacks
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Samples, and compares features.

        Args:
            folder: The run's folder, to which sampled images are written as `samples.npz`.
            checkpoints: Folder that keeps images while they are sampled.
            callbacks: Callbacks that hear of the progress.

        Returns:
            What the module describes: metrics and settings.
        """
        sample_set = self.sample_set
        if sample_set is None:
            report = _Progress(callbacks, "samples", self.num_samples)
            images = sample_into(checkpoints, self.model, self.num_samples, self.seed, report)
            write_sample_set(folder / SAMPLES_FILE, images)
            sample_set = SampleSet(folder / SAMPLES_FILE)
        size = self.model.config.image_size
        real_batches = image_batches(
            self.split, size, augmentation=self.data.augmentation, decoder=self.data.decoder
        )
        report = _Progress(callbacks, "features", self.num_samples + self.split.num_examples)
        generated = extract_all(self.extractor, sample_set.batches(size), report)
        real = extract_all(self.extractor, real_batches, report)
        self._warn_of_few(generated, real)
        with stage("comparing the features"):
            metrics = self._compare(generated, real)
        return metrics, self._describe(sample_set, generated, real)

    def _compare(self, generated: np.ndarray, real: np.ndarray) -> dict[str, Any]:
        metrics = dataclasses.asdict(SetDistances.of(generated, real, seed=self.seed))
        count = min(len(generated), len(real) // 2)
        if count < MIN_IMAGES:
            return {**metrics, "real_images": None}
        among_real = SetDistances.of_real_images(real, count, seed=self.seed)
        counts = {"num_images": count, "num_others": len(real) - count}
        return {**metrics, "real_images": counts | dataclasses.asdict(among_real)}

    def _warn_of_few(self, generated: np.ndarray, real: np.ndarray) -> None:
        fewest, dimension = min(len(generated), len(real)), generated.shape[1]
        if fewest <= dimension:
            warnings.warn(
                f"{plural(fewest, 'image')} are too few for the covariance of {dimension:,} "
                "features: the Fréchet distance is far too large, and the kernel distance the one "
                "to compare",
                InputWarning,
                stacklevel=2,
            )

    def _describe(
        self, sample_set: SampleSet, generated: np.ndarray, real: np.ndarray
    ) -> dict[str, Any]:
        own = self.sample_set is None
        return {
            "samples": {
                "path": None if own else os.fspath(sample_set.path),
                "seed": self.seed if own else None,
                "num_images": len(generated),
                "format": sample_set.format,
                "image_size": self.model.config.image_size,
            },
            "reference": {
                "split": self.reference,
                "name": self.split.name,
                "num_images": len(real),
                "fingerprint": self.split.fingerprint(),
            },
            "features": {
                "extractor": self.features,
                "name": self.extractor.name,
                "is_published": self.extractor.is_published,
                "dimension": generated.shape[1],
                **self.extractor.describe(),
            },
            "kernel_distance": {
                "num_subsets": NUM_SUBSETS,
                "subset_size": default_subset_size(generated, real),
            },
            "num_neighbors": NUM_NEIGHBORS,
        }


def distance_names(features: dict[str, Any]) -> tuple[str, str]:
    """Returns what the two distances are called, by what a result says of the features."""
    if features["is_published"]:
        return "FID", "KID"
    return "Fréchet distance (not FID)", "kernel distance (not KID)"


class _Progress:
    """Adds up what is done, and reports it."""

    def __init__(self, callbacks: Callbacks, stage: str, total: int):
        self.callbacks, self.stage, self.total = callbacks, stage, total
        self.done = 0

    def __call__(self, count: int) -> None:
        self.done += count
        report_progress(self.callbacks, self.stage, self.done, self.total)


def _split_of(data: DataOptions, reference: str | None) -> tuple[str, Split]:
    """Returns the name of the reference split, and the split."""
    if reference not in (None, *REFERENCES):
        raise InputError(f"reference must be one of {', '.join(REFERENCES)}, got {reference!r}")
    splits = {name: getattr(data.data_set, name) for name in REFERENCES}
    for name in ("test", "validation") if reference is None else (reference,):
        if splits[name] is not None:
            return name, splits[name]
    raise InputError(f"reference={reference}: data has no such split")
