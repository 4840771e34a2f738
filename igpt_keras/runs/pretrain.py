"""Pre-training: from images to a generative model (paper, section 2.1).

Metrics of the result; losses in nats per token, which is a pixel for a palette:

| key | value |
| --- | --- |
| `history` | `step`, `loss` (mean since the last evaluation), `val_loss`: a list each |
| `history` with `probe_data` | `val_probe_accuracy` as well |
| `validation_loss`, `test_loss` | of the trained model; `test_loss` is None without a test split |
| `validation_bits_per_dimension`, `test_bits_per_dimension` | None for BERT or a palette |
| `snapshots` | models on the way: `step`, `validation_loss`, `path` in the run's folder |
| `best_checkpoint` | likewise, of the model with the lowest validation loss |
| `images_per_second` | median speed of training, without validation and compilation |
| `minutes` | duration of the whole run, with validation, compilation and checkpoints |
"""

import dataclasses
import os
import pathlib
from functools import cached_property, partial
from typing import Any

import keras
import numpy as np
from PIL import Image

from igpt_keras.data.data_set import folder_of_tokens
from igpt_keras.data.splits import Split
from igpt_keras.data.token_files import TOKENIZER_FOLDER
from igpt_keras.evaluation.metrics import bits_per_dimension
from igpt_keras.evaluation.probe_callback import ACCURACY, ProbeCallback
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.models.masking import masked_inputs
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.pictures.completions import completion_sheet, known_rows, numbered_sheet
from igpt_keras.pictures.contact_sheets import save_png
from igpt_keras.runs.callbacks import Callbacks
from igpt_keras.runs.folder import SNAPSHOTS
from igpt_keras.runs.model_training import ModelTraining
from igpt_keras.runs.options import DataOptions
from igpt_keras.runs.pretrain_settings import Settings, check_probe_layer
from igpt_keras.runs.result import Result, describe_model
from igpt_keras.runs.tokenizers import fit_palette
from igpt_keras.saving import MODEL_FOLDER, TOKENIZER_ERROR
from igpt_keras.stages import stage
from igpt_keras.tokenizers import ImageTokenizer
from igpt_keras.training import recipes
from igpt_keras.training.callbacks.history_logger import read_history
from igpt_keras.training.callbacks.snapshots import Snapshots
from igpt_keras.training.strategies import distribute
from igpt_keras.wording import plural

NUM_PICTURES, NUM_COMPLETIONS, NUM_SAMPLES = 8, 6, 40
# Images that the error of the tokenizer is measured on.
NUM_MEASURED = 256


class Pretrain(ModelTraining[Settings]):
    """Pre-trains an `ImageGPT` on images, without labels unless it is class-conditional.

    Writes checkpoints, `history.jsonl`, TensorBoard's events and snapshots while it trains, and
    at the end the model, `completions.png`, `samples.png` and `result.json`.
    """

    kind = "pretrain"
    Settings = Settings

    def __init__(self, settings: Any, data: Any, output: pathlib.Path, command: str):
        # Tokens are of no use to another tokenizer than the one that made them.
        folder = folder_of_tokens(data.data) if settings.tokenizer is None else None
        if folder is not None:
            folder = os.path.join(folder, TOKENIZER_FOLDER)
            settings = dataclasses.replace(settings, tokenizer=folder)
        super().__init__(settings.completed(), data, output, command)

    @classmethod
    def check(cls, settings: Any, data: Any) -> None:
        super().check(settings, data)
        settings = settings.completed()
        settings.config(settings.read_tokenizer())

    @cached_property
    def _probe_data(self) -> DataOptions | None:
        """The labeled images of the probe; None without one."""
        if self.settings.probe_data is None:
            return None
        return dataclasses.replace(
            self.data, data=self.settings.probe_data, train_on_validation=False
        )

    def _load(self) -> None:
        if self._probe_data is not None:
            self._probe_data.data_set.labeled_train()
            check_probe_layer(self.settings)
        self.held_out = self.data.held_out
        self.class_names: list[str] | None = None
        if self.settings.class_conditional:
            self.class_names = self._names_of_classes()
        num_images = sum(source.split.num_examples for source in self.data.data_set.sources)
        self.schedule = self.settings.schedule(-(-num_images // self.settings.batch_size))
        self.total_steps = self.schedule.evaluations[-1]

    def _names_of_classes(self) -> list[str]:
        """Returns the names of the classes; raises `InputError` for images without labels."""
        data_set = self.data.data_set
        data_set.labeled_train()
        return data_set.class_names

    def fingerprints(self) -> dict[str, Any]:
        images = {"images": self.data.fingerprints()}
        if self._probe_data is None:
            return images
        return {**images, "probe_data": self._probe_data.fingerprints()}

    def _global_batch_size(self) -> int:
        return self.settings.batch_size

    def _config(self) -> ImageGPTConfig:
        classes = None if self.class_names is None else len(self.class_names)
        return self.settings.config(self.tokenizer.bind(self.settings.image_size), classes)

    def _find_tokenizer(self) -> ImageTokenizer:
        settings = self.settings
        return settings.read_tokenizer() or fit_palette(
            self.data, settings.image_size, settings.num_colors, settings.seed
        )

    def _prepare_images(self) -> None:
        settings = self.settings
        bert = settings.objective == "bert"
        self.stream = self.data.stream(
            self.tokenizer.bind(settings.image_size),
            batch_size=self.batch_size,
            seed=settings.seed,
            mask_probability=settings.mask_probability if bert else None,
            label_dropout=settings.label_dropout if settings.class_conditional else None,
        )

    def _build(self) -> ImageGPT:
        settings = self.settings
        keras.utils.set_random_seed(settings.seed)
        return ImageGPT(
            self._config(),
            settings.objective,
            mask_probability=settings.mask_probability,
            label_dropout=settings.label_dropout,
            class_names=self.class_names,
            tokenizer=self.tokenizer,
            dtype=settings.precision,
        )

    def _train(self, model: ImageGPT, callbacks: Callbacks) -> Result:
        snapshots = self._fit(model, callbacks)
        losses = {
            "validation": snapshots.saved[-1]["validation_loss"],
            "test": self._test_loss(model),
        }
        metrics: dict[str, Any] = {}
        for split, nll in losses.items():
            metrics[f"{split}_loss"] = nll
            metrics[f"{split}_bits_per_dimension"] = bits_per_dimension(model, nll)
        if self.is_chief:
            metrics |= self._history_metrics(snapshots)
            self._save(model, metrics)
        return Result(
            kind=self.kind,
            command=self.command,
            model=describe_model(model, self.output),
            data=self.data.data_set.describe(),
            settings={
                **dataclasses.asdict(self.settings),
                "augmentation": self.data.augmentation,
            },
            metrics=metrics,
        )

    def _fit(self, model: ImageGPT, callbacks: Callbacks) -> Snapshots:
        schedule = self.schedule
        snapshots = Snapshots(
            self.output / SNAPSHOTS,
            schedule.snapshots,
            schedule.evaluations,
            self._about(),
            writes=self.is_chief,
        )
        checkpoints = self._checkpoints(
            callbacks,
            pictures=lambda model: {**self._pictures(model)},
            others={"snapshots": snapshots},
        )
        validation = self._inputs(self.held_out, model)
        probe = [] if self._probe_data is None else [self._probe(self._probe_data, model)]
        with self._fitting(checkpoints):
            recipes.pretrain(
                model,
                lambda step: distribute(partial(self.stream.dataset, step), self.strategy),
                validation,
                batch_size=self.batch_size,
                epochs=len(schedule.evaluations),
                steps_per_epoch=np.diff(schedule.evaluations, prepend=0).tolist(),
                warmup_steps=schedule.warmup_steps,
                **self._recipe(checkpoints, callbacks, first=probe),
            )
        return snapshots

    def _inputs(self, split: Split, model: ImageGPT) -> Any:
        """Returns what the model is measured on: all images of a split, the same every time."""
        images = self.data.tokenize(split, model)
        labels = None if self.class_names is None else images.labels
        return masked_inputs(model, images.tokens, self.settings.seed, labels=labels)

    def _probe(self, data: DataOptions, model: ImageGPT) -> ProbeCallback:
        """Returns the callback that adds the accuracy of a probe to the logs."""
        train, validation = (
            data.tokenize(split, model) for split in (data.data_set.train, data.held_out)
        )
        return ProbeCallback(
            train.tokens,
            train.labels,
            validation.tokens,
            validation.labels,
            layer=self.settings.probe_layer,
            batch_size=self.evaluation_batch_size,
            seed=self.settings.seed,
            writes=self.is_chief,
        )

    def _about(self) -> dict[str, Any]:
        """Returns what a model folder says of its training."""
        return {
            "name": self.output.name,
            "data": self.data.data_set.describe()["name"],
            "command": self.command,
            "learning_rate": self.settings.learning_rate,
            TOKENIZER_ERROR: self._tokenizer_error,
        }

    @cached_property
    def _tokenizer_error(self) -> float | None:
        """The tokenizer's error on some held-out images; see `TOKENIZER_ERROR`."""
        if self.held_out.tokenizer is not None:
            return None  # The images themselves are not there.
        size = self.settings.image_size
        images = self.data.read_images(self.held_out, size, NUM_MEASURED, self.settings.seed)
        errors = self.tokenizer.bind(size).reconstruction_error(images.images)
        return float(np.sqrt(np.mean(np.square(errors))))

    def _test_loss(self, model: ImageGPT) -> float | None:
        test = self.data.data_set.test
        if test is None:
            return None
        inputs = self._inputs(test, model)
        with stage(f"measuring the model on {plural(test.num_examples, 'test image')}"):
            logs = model.evaluate(
                inputs, batch_size=self.evaluation_batch_size, verbose=0, return_dict=True
            )
        return logs["loss"]

    def _history_metrics(self, snapshots: Snapshots) -> dict[str, Any]:
        records = read_history(self.output)
        evaluations = [record for record in records if "val_loss" in record]
        speeds = [speed for r in records if (speed := r.get("images_per_second"))]
        best = snapshots.best
        assert best is not None
        return {
            "history": {
                "step": [record["step"] for record in evaluations],
                "loss": _means_between(records, evaluations),
                "val_loss": [record["val_loss"] for record in evaluations],
                **_recorded(ACCURACY, evaluations),
            },
            "snapshots": [
                {**saved, "path": f"{SNAPSHOTS}/{saved['path']}"} for saved in snapshots.saved
            ],
            "best_checkpoint": {**best, "path": f"{SNAPSHOTS}/{best['path']}"},
            "images_per_second": float(np.median(speeds)) if speeds else None,
            "minutes": self.stopwatch.seconds / 60,
        }

    def _save(self, model: ImageGPT, metrics: dict[str, Any]) -> None:
        """Writes the model and its pictures."""
        history = metrics["history"]
        measured = {"step": history["step"][-1], "validation_loss": metrics["validation_loss"]}
        about = {**self._about(), **measured, "history": history}
        model.save_to_preset(self.output / MODEL_FOLDER, training=about, overwrite=True)
        with stage("drawing completions"):
            for name, picture in self._pictures(model).items():
                save_png(picture, self.output / f"{name}.png")
        if model.objective == "ar":
            with stage(f"sampling {NUM_SAMPLES} images"):
                samples = model.sample(
                    NUM_SAMPLES, labels=self._sampled_labels(), seed=self.settings.seed
                ).images[:, 0]
            title = f"Samples from {self.output.name}"
            save_png(numbered_sheet(samples, title), self.output / "samples.png")

    def _sampled_labels(self) -> np.ndarray | None:
        """Returns a class for each sample, all of them in turn; None without classes."""
        if self.class_names is None:
            return None
        return np.arange(NUM_SAMPLES) % len(self.class_names)

    def _pictures(self, model: Any) -> dict[str, Image.Image]:
        """Returns completions of held-out images by an autoregressive model."""
        if model.objective != "ar":
            return {}
        size, seed = model.config.image_size, self.settings.seed
        keep_rows = size // 2
        shown = self.data.read_images(self.held_out, size, NUM_PICTURES, seed)
        pixels = shown.images
        completions = model.generate(
            pixels,
            keep_rows=keep_rows,
            num_completions=NUM_COMPLETIONS,
            labels=None if self.class_names is None else shown.labels,
            seed=seed,
        )
        known = known_rows(size, keep_rows)
        title = f"Held-out images, completed by {self.output.name}"
        return {"completions": completion_sheet(pixels, completions.images, known, title=title)}


def _recorded(name: str, evaluations: list[dict]) -> dict[str, list[float]]:
    """Returns the values of a metric by its name, if the evaluations have it."""
    values = [record[name] for record in evaluations if name in record]
    return {name: values} if values else {}


def _means_between(records: list[dict], evaluations: list[dict]) -> list[float]:
    """Returns the mean training loss before each evaluation, since the one before it."""
    means, total, first, previous = [], 0.0, 0, 0
    for record in records:
        total += record.get("loss", 0.0) * (record["step"] - previous)
        previous = record["step"]
        if record in evaluations:
            means.append(total / (previous - first))
            total, first = 0.0, previous
    return means
