"""What a user says of the data and of how training runs, for every experiment."""

import dataclasses
import pathlib
import sys
from typing import Any

from igpt_keras.data.data_set import DataSet, open_data
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.data.labeled import LabeledTokens
from igpt_keras.data.splits import Split
from igpt_keras.data.stream import TrainingStream
from igpt_keras.data.tokenization import tokenize
from igpt_keras.tokenizers import ImageTokenizer

# Options that change how a training runs and what it keeps, not what it learns.
LAYOUT = {"strategy", "micro_batches", "remat", "stop_on_divergence", "progress"}
LAYOUT |= {"checkpoint_every", "max_checkpoints", "log_every"}


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """What the user said of the data.

    Attributes:
        data: one or more sources, in the notation of `open_data`.
        data_dir: where TFDS keeps its sets.
        train_on_validation: whether the validation split is trained on.
        augmentation: name of the augmentation; its evaluation crops all else.
        split_seed: of which images are held out.
        cache: folder of cached tokens, or None.
        decoder: keeps account of bad images.
    """

    data: tuple[str, ...]
    data_dir: str | None = None
    train_on_validation: bool = False
    augmentation: str = "none"
    split_seed: int = 0
    cache: pathlib.Path | None = None
    decoder: ImageDecoder = dataclasses.field(default_factory=ImageDecoder)

    def described(self) -> dict[str, Any]:
        """The options as JSON values, by their names on the command line."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "decoder"
        }
        values |= {
            "data": list(self.data),
            "cache": self.cache and str(self.cache),
            "skip_bad_images": self.decoder.skip_bad_images,
        }
        return values

    def open(self) -> DataSet:
        return open_data(
            self.data,
            data_dir=self.data_dir,
            train_on_validation=self.train_on_validation,
            seed=self.split_seed,
        )

    def reading(self) -> dict[str, Any]:
        """Arguments of `read_images` and `tokenize` that the user chose."""
        return {"augmentation": self.augmentation, "decoder": self.decoder}

    def tokenize(self, split: Split, tokenizer: ImageTokenizer) -> LabeledTokens:
        return tokenize(
            split,
            tokenizer,
            cache=self.cache,
            **self.reading(),
        )

    def stream(
        self,
        data_set: DataSet,
        tokenizer: ImageTokenizer,
        batch_size: int,
        seed: int,
        labels: bool,
        mask_probability: float | None,
    ) -> TrainingStream:
        """Batches to train on: with labels for fine-tuning, with masks for BERT."""
        if labels:
            data_set.labeled_train()
        return TrainingStream(
            data_set.sources,
            tokenizer,
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
            print(f"skipped {len(self.decoder.bad)} bad images:", file=sys.stderr)
        for name, reason in self.decoder.bad.items():
            print(f"  {name}: {reason}", file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How training runs: `precision` and `clip_norm` change its result, the rest does not.

    Attributes:
        strategy: as `make_strategy` takes it.
        precision: name of a Keras dtype policy.
        micro_batches: see `DistributedTrainer`.
        remat: see `ImageGPTBackbone`.
        clip_norm: the largest global norm of a gradient, or None.
        stop_on_divergence: whether a loss that does not come down again ends the training.
        progress: form of the `ProgressBar`.
    """

    strategy: str = "auto"
    precision: str = "float32"
    micro_batches: int = 1
    remat: bool = False
    clip_norm: float | None = None
    stop_on_divergence: bool = True
    progress: str = "auto"

    def say(self, message: str) -> None:
        """Prints what a person may want to know; not where --progress asks for quiet."""
        if self.progress != "quiet":
            self.conclude(message)

    def conclude(self, message: str) -> None:
        """Prints what the training came to; on stderr where the standard output is JSON."""
        print(message, file=sys.stderr if self.progress == "json" else sys.stdout, flush=True)
