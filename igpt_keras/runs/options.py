"""Options that the experiments share: which data, and how training runs."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any, Literal

from igpt_keras.data.data_set import DataSet, open_data
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.data.labeled import LabeledImages, LabeledTokens
from igpt_keras.data.splits import Split
from igpt_keras.data.stream import TrainingStream
from igpt_keras.data.tokenization import read_images, tokenize
from igpt_keras.errors import InputError
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.short_repr import ShortRepr
from igpt_keras.stages import stage
from igpt_keras.tokenizers import ImageTokenizer
from igpt_keras.tokenizers.base import tokenizer_of
from igpt_keras.training.callbacks.checkpoint_manager import CHECKPOINT_EVERY, MAX_TO_KEEP

# Fields that change how a training runs and what it keeps, but not what it learns.
LAYOUT = {
    "strategy",
    "micro_batches",
    "remat",
    "stop_on_divergence",
    "checkpoint_every",
    "max_checkpoints",
    "log_every",
}
# Fields that say where the images are, which may have moved: what they are has a fingerprint.
PLACES = {"data", "data_dir", "cache"}


@dataclasses.dataclass(frozen=True, repr=False)
class DataOptions(ShortRepr):
    """Which images an experiment reads, and how.

    Attributes:
        data: One source or several, in the notation of `open_data`.
        data_dir: Folder of TensorFlow Datasets.
        train_on_validation: Whether to train on the validation split as well.
        augmentation: Name of the augmentation of training images; all other images get its
            evaluation crop.
        split_seed: Seed of the choice of held-out images.
        cache: Folder for tokens, or None to tokenize in every run.
        decoder: Decodes images and keeps a list of the bad ones.

    Example:
        ```python
        data = DataOptions("folder:photos", augmentation="imagenet")
        data.data_set.describe()
        ```
    """

    data: str | tuple[str, ...]
    data_dir: str | os.PathLike | None = None
    train_on_validation: bool = False
    augmentation: str = "none"
    split_seed: int = 0
    cache: str | os.PathLike | None = None
    decoder: ImageDecoder = dataclasses.field(default_factory=ImageDecoder, repr=False)

    def __post_init__(self):
        sources = (self.data,) if isinstance(self.data, str) else tuple(self.data)
        object.__setattr__(self, "data", sources)

    @classmethod
    def of(cls, data: "str | tuple[str, ...] | DataOptions") -> "DataOptions":
        """Returns `data` itself, or the options of sources with all else at its default."""
        return data if isinstance(data, DataOptions) else cls(data)

    def to_json(self) -> dict[str, Any]:
        """Returns the options as JSON values, by their names on the command line."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["decoder"]
        paths = {"data_dir": self.data_dir, "cache": self.cache}
        return values | {
            "data": list(self.data),
            "skip_bad_images": self.decoder.skip_bad_images,
            **{name: path and os.fspath(path) for name, path in paths.items()},
        }

    @functools.cached_property
    def data_set(self) -> DataSet:
        """The opened data set.

        Raises:
            FileNotFoundError: A source does not exist.
            InputError: A source cannot be read.
        """
        return open_data(
            self.data,
            data_dir=None if self.data_dir is None else os.fspath(self.data_dir),
            train_on_validation=self.train_on_validation,
            seed=self.split_seed,
        )

    @property
    def held_out(self) -> Split:
        """The validation split, or without one the test split, to follow a training on.

        Raises:
            InputError: There is neither.
        """
        split = self.data_set.validation or self.data_set.test
        if split is None:
            raise InputError(
                "train_on_validation leaves nothing to validate on: there is no test split"
            )
        return split

    def labeled_data_set(self) -> DataSet:
        """Returns the data set for what trains and tests a classifier.

        Raises:
            InputError: Several sources, images without labels, or no labeled test split.
        """
        self.data_set.labeled_train()
        if self.data_set.test is None or not self.data_set.test.labeled:
            raise InputError(
                f"data={self.data_set.specs[0]} has no labeled test split to measure the accuracy "
                "on; a folder has its own in test/<class>/"
            )
        return self.data_set

    def fingerprints(self) -> list[str]:
        """Returns one string for each split, which changes with its images.

        The strings of sources change with their share and augmentation, too. They stay the same
        when images are touched, copied or moved; see `Split.fingerprint`.
        """
        data_set = self.data_set
        splits = (data_set.validation, data_set.test)
        with stage("computing fingerprints of the images"):
            sources = [
                f"{source.split.fingerprint()} {source.weight} {source.augmentation}"
                for source in data_set.sources
            ]
            return sources + [split.fingerprint() for split in splits if split is not None]

    def read_images(
        self, split: Split, image_size: int, limit: int | None = None, seed: int | None = None
    ) -> LabeledImages:
        """Reads images of a split as `igpt_keras.data.tokenization.read_images` does."""
        return read_images(
            split,
            image_size,
            augmentation=self.augmentation,
            decoder=self.decoder,
            limit=limit,
            seed=seed,
        )

    def tokenize(self, split: Split, model: GenerativeModel) -> LabeledTokens:
        """Returns the tokens of a split's images for `model`, from the cache if there is one."""
        return tokenize(
            split,
            tokenizer_of(model),
            augmentation=self.augmentation,
            decoder=self.decoder,
            cache=self.cache,
        )

    def tokenize_held_out(self, model: GenerativeModel) -> dict[str, LabeledTokens]:
        """Returns the tokens of the "validation" and the "test" split, of those that exist."""
        splits = {"validation": self.data_set.validation, "test": self.data_set.test}
        return {
            name: self.tokenize(split, model) for name, split in splits.items() if split is not None
        }

    def stream(self, tokenizer: ImageTokenizer | None, **settings: Any) -> TrainingStream:
        """Returns the batches to train on; `settings` are further fields of `TrainingStream`."""
        return TrainingStream(
            self.data_set.sources,
            tokenizer,
            augmentation=self.augmentation,
            decoder=self.decoder,
            cache=self.cache,
            **settings,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class TrainingOptions(ShortRepr):
    """How a training runs and what it keeps.

    Only `precision` changes what is learned.

    Attributes:
        strategy: Devices to train on; see `make_strategy`.
        precision: Name of a Keras dtype policy.
        stop_on_divergence: Whether a loss that does not recover ends the training.
        checkpoint_every: Steps between two checkpoints.
        max_checkpoints: Number of latest checkpoints to keep.
        log_every: Steps between two records of the history.
    """

    strategy: str = "auto"
    precision: str = "float32"
    stop_on_divergence: bool = True
    checkpoint_every: int = CHECKPOINT_EVERY
    max_checkpoints: int = MAX_TO_KEEP
    log_every: int = 10


class Duration:
    """How long a training lasts that has a schedule from its first step to its last.

    A base of settings that have the fields `epochs`, passes over the images, and `steps`, batches
    to train on; at most one of the two is given.

    Raises:
        InputError: Both are given.
    """

    epochs: float | None
    steps: int | None

    def __post_init__(self):
        if self.epochs is not None and self.steps is not None:
            raise InputError(
                f"give either epochs or steps, got epochs={self.epochs} and steps={self.steps}"
            )

    def total_steps(self, steps_of_data: int) -> int:
        """Returns the number of steps.

        Args:
            steps_of_data: Batches in a pass over the images.

        Raises:
            InputError: `epochs` is less than a step.
        """
        total = self.steps or round((self.epochs or 0) * steps_of_data)
        if total < 1:
            raise InputError(
                f"epochs={self.epochs} is less than one step; a pass over the images has "
                f"{steps_of_data}"
            )
        return total


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class ModelTrainingOptions(TrainingOptions):
    """The settings that pre-training and fine-tuning share.

    Of these, only `clip_norm` changes what is learned.

    Attributes:
        micro_batches: Parts of a batch that go through the model in turn; see
            `DistributedTrainer`. "auto" takes the fewest with which training fits into the
            memory of this host; on accelerators 1.
        remat: Whether activations are recomputed; see `ImageGPTBackbone`.
        clip_norm: Largest global norm of a gradient, or None.
    """

    micro_batches: int | Literal["auto"] = "auto"
    remat: bool = False
    clip_norm: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class AttentionOptions(ShortRepr):
    """The attention of a new model, its positions and its initial weights; see `ImageGPTConfig`.

    Attributes:
        attention: Name of an attention pattern.
        stride: Positions in a row of a sparse pattern; None for the columns of the token
            grid.
        summary: Summary positions of a row for each head; None for an eighth of the stride.
        attention_layers: The parts of a sparse pattern that consecutive layers have, over and
            over; None for the pattern's own order.
        axial_positions: Whether positions are embedded as a row and a column.
        initializer: Scheme of the initial weights.
    """

    attention: str = "dense"
    stride: int | None = None
    summary: int | None = None
    attention_layers: Sequence[str] | None = None
    axial_positions: bool = False
    initializer: str = "image_gpt"


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class ModelOptions(ShortRepr):
    """The model that an experiment begins with.

    Attributes:
        model: Path of a model, in any format that `igpt_keras.load` reads.
    """

    model: str | os.PathLike

    def __post_init__(self):
        object.__setattr__(self, "model", os.fspath(self.model))
