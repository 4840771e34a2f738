"""Evaluation: losses and accuracy of a model on validation and test images.

Metrics of the result, `S` being "validation" and "test", where there is such a split; losses in
nats per token, which is a pixel for a palette:

| key | value |
| --- | --- |
| `S_loss` | generative loss; None without token head |
| `S_bits_per_pixel` | the bits of all tokens, divided by R²; None without token head |
| `S_bits_per_dimension` | the same divided by 3 R²; None unless AR and the tokenizer is lossless |
| `S_unconditional_loss` | of a class-conditional model without classes; `S_loss` is with them |
| `S_accuracy`, `S_single_mask_accuracy` | of a (generative) classifier: `ClassifierMetrics` |
| `S_top_5_accuracy` | likewise; None without more than 5 classes |
| `S_confusion` | likewise, as of `igpt_keras.runs.confusions` |
| `S_classification_loss` | likewise, in nats |
| `votes` | number of masks that an image is measured under, for BERT; else None |
| `baselines` | of each split, losses of count-based models, by name |
| `samples` | how generated images compare with real ones, as of `generated_images` |
"""

import dataclasses
import os
import pathlib
import shutil
from typing import Any

from igpt_keras import paper
from igpt_keras.data.labeled import LabeledTokens
from igpt_keras.errors import InputError
from igpt_keras.evaluation.baselines import generative_baselines
from igpt_keras.evaluation.metrics import (
    bits_per_dimension,
    bits_per_pixel,
    classifier_metrics,
    generative_classifier_metrics,
    generative_loss,
)
from igpt_keras.evaluation.voting import VOTES
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.runs.callbacks import Callbacks
from igpt_keras.runs.confusions import describe_confusions, draw_confusions
from igpt_keras.runs.generated_images import GeneratedImages
from igpt_keras.runs.options import ModelOptions
from igpt_keras.runs.result import Result, describe_model
from igpt_keras.runs.run import Measurement
from igpt_keras.runs.sampled_images import PROGRESS_FILE
from igpt_keras.runs.tokenizers import load_with_tokenizer
from igpt_keras.stages import stage
from igpt_keras.tokenizers.base import tokenizer_of
from igpt_keras.wording import plural


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Settings(ModelOptions):
    """Settings of an evaluation.

    Attributes:
        model: Path of the model.
        batch_size: Images in a forward pass.
        baselines: Whether to measure count-based models of the training images as well.
        seed: Seed of BERT's masks, and of the first sampled image.
        samples: Number of images to sample and to compare with real ones, or the path of a set
            of images (`SampleSet`); None for no such comparison.
        reference: The real images: "train", "validation" or "test"; None for the test split, or
            else the validation split.
        features: What they are compared by; see `open_feature_extractor`.
    """

    batch_size: int = paper.BATCH_SIZE
    baselines: bool = True
    seed: int = 0
    samples: int | str | os.PathLike | None = None
    reference: str | None = None
    features: str = "model:image_gpt_nano"


class Evaluate(Measurement[Settings]):
    """Measures a model on the validation and the test split, and writes `result.json`.

    With `samples`, it also compares generated images with real ones. While it samples, the images
    so far are in a folder next to the run's, from which the same run goes on if it was killed.

    Attributes:
        model: The model.
        held_out: Tokens of the "validation" and the "test" split, of those that exist.
    """

    kind = "evaluate"
    Settings = Settings
    generated: GeneratedImages | None = None

    @property
    def _samples_folder(self) -> pathlib.Path:
        return self.output.with_name(f"{self.output.name}-samples")

    def remove_checkpoints(self) -> None:
        if (self._samples_folder / PROGRESS_FILE).exists():
            shutil.rmtree(self._samples_folder)

    def _load(self) -> None:
        self.model = load_with_tokenizer(self.settings.model)
        names = self.data.data_set.class_names
        expected = self.class_names = getattr(self.model, "class_names", None)
        if expected is not None and names != expected:
            raise InputError(
                f"data must have the classes of the model, {_names(expected)}; got {_names(names)}"
            )
        settings = self.settings
        if settings.samples is not None:
            self.generated = GeneratedImages(
                self.model,
                self.data,
                samples=settings.samples,
                reference=settings.reference,
                features=settings.features,
                seed=settings.seed,
            )
        self.held_out = self.data.tokenize_held_out(self.model)
        if not self.held_out:
            raise InputError("data has neither a validation split nor a test split to evaluate on")

    def _measure(self, folder: pathlib.Path, callbacks: Callbacks) -> Result:
        metrics: dict[str, Any] = {"votes": VOTES if self.model.objective == "bert" else None}
        for name, tokens in self.held_out.items():
            with stage(f"measuring the model on {plural(len(tokens), f'{name} image')}"):
                metrics |= self._measure_split(name, tokens, folder)
        if self.settings.baselines and self.model.generative_weight > 0:
            with stage("measuring the baselines"):
                metrics["baselines"] = self._baselines()
        settings = {
            "batch_size": self.settings.batch_size,
            "seed": self.settings.seed,
            "augmentation": self.data.augmentation,
            "split_seed": self.data.split_seed,
        }
        if self.generated is not None:
            metrics["samples"], settings["samples"] = self.generated.measure(
                folder, self._samples_folder, callbacks
            )
        return Result(
            kind=self.kind,
            command=self.command,
            model=describe_model(self.model, self.settings.model),
            data=self.data.data_set.describe(),
            settings=settings,
            metrics=metrics,
        )

    def _measure_split(
        self, name: str, split: LabeledTokens, folder: pathlib.Path
    ) -> dict[str, Any]:
        """Returns the metrics of one split, whose name they begin with; draws test errors."""
        settings = {"batch_size": self.settings.batch_size, "seed": self.settings.seed}
        if self.class_names is None:
            return self._losses(name, generative_loss(self.model, split.tokens, **settings))
        others: dict[str, float] = {}
        if isinstance(self.model, ImageGPTClassifier):
            metrics = classifier_metrics(self.model, split.tokens, split.labels, **settings)
        else:
            metrics = generative_classifier_metrics(
                self.model, split.tokens, split.labels, batch_size=self.settings.batch_size
            )
            unconditional = generative_loss(self.model, split.tokens, **settings)
            others = {f"{name}_unconditional_loss": unconditional}
        names, tokenizer = self.data.data_set.class_names, tokenizer_of(self.model)
        if name == "test":
            draw_confusions(
                folder,
                metrics.predictions,
                names,
                lambda rows: tokenizer.detokenize(split.tokens[rows]),
            )
        return {
            **self._losses(name, metrics.generative_loss),
            **others,
            f"{name}_accuracy": metrics.accuracy,
            f"{name}_top_5_accuracy": metrics.top_5_accuracy,
            f"{name}_confusion": describe_confusions(metrics.predictions, names),
            f"{name}_single_mask_accuracy": metrics.single_mask_accuracy,
            f"{name}_classification_loss": metrics.classification_loss,
        }

    def _losses(self, name: str, nll: float | None) -> dict[str, float | None]:
        return {
            f"{name}_loss": nll,
            f"{name}_bits_per_pixel": bits_per_pixel(self.model, nll),
            f"{name}_bits_per_dimension": bits_per_dimension(self.model, nll),
        }

    def _baselines(self) -> dict[str, dict[str, float]]:
        """Returns the losses of count-based models of the training images, for every split."""
        grid = tokenizer_of(self.model).grid
        train = self.data.tokenize(self.data.data_set.train, self.model).tokens
        return {
            name: generative_baselines(train, split.tokens, self.model.config.vocabulary_size, grid)
            for name, split in self.held_out.items()
        }


def _names(class_names: list[str] | None) -> str:
    if not class_names:
        return "none"
    shown = ", ".join(class_names[:5])
    return shown if len(class_names) <= 5 else f"{shown}, … ({len(class_names)} in all)"
