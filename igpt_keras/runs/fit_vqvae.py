"""Fitting a VQ-VAE: from images to a tokenizer.

Metrics of the result, of held-out images:

| key | value |
| --- | --- |
| `history` | `step`, and a list for each metric of training; with `val_` of held-out images |
| `validation_loss` | of the trained VQ-VAE |
| `rmse`, `psnr` | error of what tokens stand for, in levels 0…255 and in dB |
| `used_share`, `perplexity` | share of the codes that occur, and exp of the entropy of the tokens |
| `held_out_images` | number of images that these are measured on |
| `images_per_second` | median speed of training, without validation and compilation |
| `minutes` | duration of the whole run, with validation, compilation and checkpoints |
"""

import dataclasses
import pathlib
from functools import cached_property
from typing import Any

import keras
import numpy as np
from PIL import Image

from igpt_keras.errors import InputError
from igpt_keras.evaluation.reconstructions import Reconstructions
from igpt_keras.pictures.contact_sheets import save_png
from igpt_keras.runs.callbacks import Callbacks
from igpt_keras.runs.options import Duration, TrainingOptions
from igpt_keras.runs.result import Result
from igpt_keras.runs.training import Training
from igpt_keras.stages import stage
from igpt_keras.tokenizers.learned.vqvae import VQVAE
from igpt_keras.training.callbacks.history_logger import read_history
from igpt_keras.training.recipes import warmup_cosine
from igpt_keras.training.resumable_fit import resumable_fit
from igpt_keras.training.strategies import strategy_name
from igpt_keras.wording import plural

STEPS = 1500
# The context of the paper's first version, in tokens a side.
MAX_GRID = 48
# At most a tenth of the training.
WARMUP_STEPS = 100
NUM_EVALUATIONS = 8
# Held-out images that the VQ-VAE is measured on, and those that are drawn.
NUM_HELD_OUT, NUM_PICTURES = 256, 8
# The settings that are arguments of `VQVAE`.
OF_VQVAE = (
    *("image_size", "num_downsampling", "codebook_size", "embedding_dim", "hidden_dim"),
    *("residual_dim", "num_residual_layers", "commitment_cost", "decay", "seed"),
)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Settings(Duration, TrainingOptions):
    """Settings of a VQ-VAE and of its training; see `igpt_keras.VQVAE` for its own.

    Attributes:
        image_size: Side of the images in pixels.
        num_downsampling: Number of times that the sides are halved; None for the smallest with
            which they have at most 48 tokens.
        codebook_size: Number of codes, the vocabulary size of a model.
        embedding_dim: Length of a code.
        hidden_dim: Channels.
        residual_dim: Channels inside the residual layers.
        num_residual_layers: Residual layers of a block.
        commitment_cost: Factor of the commitment loss.
        decay: Share of the codebook's moving averages that a step keeps.
        epochs: Passes over the images, instead of `steps`.
        steps: Batches to train on; 1,500 if both are None.
        batch_size: Images in a step, of all devices together.
        learning_rate: The peak, after a warm-up and before a decay to 0.
        seed: Seed of every random choice.

    Raises:
        InputError: Settings that contradict each other.
    """

    image_size: int = 96
    num_downsampling: int | None = None
    codebook_size: int = 512
    embedding_dim: int = 64
    hidden_dim: int = 32
    residual_dim: int = 32
    num_residual_layers: int = 2
    commitment_cost: float = 0.25
    decay: float = 0.99
    epochs: float | None = None
    steps: int | None = None
    batch_size: int = 8
    learning_rate: float = 3e-3
    seed: int = 0

    def completed(self) -> "Settings":
        """Returns these settings with a value for everything that was left out."""
        values = {}
        if self.num_downsampling is None:
            halvings = 1
            while self.image_size > MAX_GRID << halvings:
                halvings += 1
            values["num_downsampling"] = halvings
        if self.epochs is None and self.steps is None:
            values["steps"] = STEPS
        return dataclasses.replace(self, **values)

    @property
    def grid_size(self) -> int:
        """Tokens in a row of an image; 0 unless the settings are completed."""
        return 0 if self.num_downsampling is None else self.image_size >> self.num_downsampling

    def vqvae(self) -> VQVAE:
        """Returns a new VQ-VAE.

        Raises:
            InputError: A size is out of range, or the downsampling does not divide `image_size`.
        """
        return VQVAE(**{name: getattr(self, name) for name in OF_VQVAE}, dtype=self.precision)


class FitVQVAE(Training[Settings]):
    """Trains a VQ-VAE on images, without labels.

    Writes checkpoints, `history.jsonl` and TensorBoard's events while it trains, and at the end
    the tokenizer's files, `reconstructions.png` and `result.json`. The folder is then that of a
    tokenizer.
    """

    kind = "tokenizer fit vqvae"
    Settings = Settings

    def __init__(self, settings: Any, data: Any, output: pathlib.Path, command: str):
        super().__init__(settings.completed(), data, output, command)

    def _begin(self, resume: bool, overwrite: bool) -> None:
        # Keras' own training step fails to put the metrics of several hosts together.
        if strategy_name(self.settings.strategy) == "multi-worker":
            given = (
                "several hosts in TF_CONFIG" if self.settings.strategy == "auto" else "multi-worker"
            )
            raise InputError(
                "strategy must be none, mirrored or tpu: a VQ-VAE is trained on one host, "
                f"got {given}"
            )
        super()._begin(resume, overwrite)

    def _load(self) -> None:
        self.held_out = self.data.held_out
        sources, settings = self.data.data_set.sources, self.settings
        num_images = sum(source.split.num_examples for source in sources)
        self.total_steps = settings.total_steps(-(-num_images // settings.batch_size))
        vqvae = self.settings.vqvae()
        num_tokens = num_images * vqvae.grid[0] * vqvae.grid[1]
        if num_tokens < vqvae.vocabulary_size:
            raise InputError(
                f"codebook_size must be at most {num_tokens:,}, the number of tokens of "
                f"{plural(num_images, 'training image')}, got {vqvae.vocabulary_size:,}"
            )

    def fingerprints(self) -> dict[str, Any]:
        return {"images": self.data.fingerprints()}

    def _global_batch_size(self) -> int:
        return self.settings.batch_size

    def _prepare(self, content: dict[str, Any] | None) -> None:
        self.stream = self.data.stream(
            None,
            image_size=self.settings.image_size,
            batch_size=self.batch_size,
            seed=self.settings.seed,
        )

    def _build(self) -> VQVAE:
        keras.utils.set_random_seed(self.settings.seed)
        return self.settings.vqvae()

    @cached_property
    def _held_out_images(self) -> np.ndarray:
        """Random held-out images, uint8 [N, R, R, 3]."""
        size, seed = self.settings.image_size, self.settings.seed
        return self.data.read_images(self.held_out, size, NUM_HELD_OUT, seed).images

    def _train(self, model: VQVAE, callbacks: Callbacks) -> Result:
        history = self._fit(model, callbacks)
        metrics = {
            "history": {"step": self._evaluations(), **history},
            "validation_loss": history["val_loss"][-1],
            **self._measure(model),
        }
        # A process that was killed before it wrote the result may have written these.
        model.save_to_preset(self.output)
        save_png(self._picture(model), self.output / "reconstructions.png")
        return Result(
            kind=self.kind,
            command=self.command,
            model={
                "path": str(self.output),
                "config": {name: getattr(self.settings, name) for name in OF_VQVAE},
                "parameters": model.count_params(),
            },
            data=self.data.data_set.describe(),
            settings={
                **dataclasses.asdict(self.settings),
                "augmentation": self.data.augmentation,
            },
            metrics=metrics,
        )

    def _measure(self, model: VQVAE) -> dict[str, Any]:
        images = self._held_out_images
        with stage(f"measuring the tokenizer on {plural(len(images), 'held-out image')}"):
            measured = Reconstructions.of(model, images)
        records = read_history(self.output)
        speeds = [speed for record in records if (speed := record.get("images_per_second"))]
        return {
            "rmse": measured.rmse,
            "psnr": measured.psnr,
            "used_share": measured.used_share,
            "perplexity": measured.perplexity,
            "held_out_images": len(images),
            "images_per_second": float(np.median(speeds)) if speeds else None,
            "minutes": self.stopwatch.seconds / 60,
        }

    def _evaluations(self) -> list[int]:
        """Returns the steps after which the VQ-VAE is evaluated."""
        count = min(NUM_EVALUATIONS, self.total_steps)
        return [self.total_steps * (index + 1) // count for index in range(count)]

    def _fit(self, model: VQVAE, callbacks: Callbacks) -> dict[str, list[float]]:
        warmup = min(self.total_steps // 10, WARMUP_STEPS)
        schedule: Any = warmup_cosine(self.settings.learning_rate, warmup, self.total_steps)
        keras.utils.set_random_seed(self.settings.seed)
        with model.distribute_strategy.scope():
            optimizer = keras.optimizers.Adam(schedule)
        model.compile(optimizer)
        checkpoints = self._checkpoints(
            callbacks, pictures=lambda model: {"reconstructions": self._picture(model)}
        )
        evaluations = self._evaluations()
        with self._fitting(checkpoints):
            return resumable_fit(
                model,
                self.stream.dataset,
                epochs=len(evaluations),
                steps_per_epoch=np.diff(evaluations, prepend=0).tolist(),
                checkpoints=checkpoints,
                callbacks=[*checkpoints.callbacks.values(), *callbacks],
                validation_data=(self._held_out_images, None),
                validation_batch_size=self.batch_size,
                verbose=0,
            )

    def _picture(self, model: Any) -> Image.Image:
        """Returns held-out images, and what their tokens stand for."""
        return Reconstructions.of(model, self._held_out_images[:NUM_PICTURES]).sheet()
