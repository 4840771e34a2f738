"""The settings of a pre-training, and what they mean for its model and its steps."""

import dataclasses
from typing import Any

from igpt_keras import paper
from igpt_keras.errors import InputError
from igpt_keras.models.label_dropout import check_label_dropout
from igpt_keras.network import presets
from igpt_keras.network.config import ImageGPTConfig, check_objective
from igpt_keras.runs.options import AttentionOptions, Duration, ModelTrainingOptions
from igpt_keras.runs.tokenizers import read_tokenizer
from igpt_keras.tokenizers import ImageTokenizer
from igpt_keras.training import recipes


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Settings(Duration, ModelTrainingOptions, AttentionOptions):
    """Settings of the model and of its pre-training.

    Sizes that are None are those of the preset; `igpt_keras.network.presets` has them, and what
    else holds where nothing is said.

    Attributes:
        objective: "ar" or "bert".
        image_size: Side of the model's input in pixels; None for the tokenizer's, if it is for
            images of one size, or the preset's.
        preset: Name of the sizes; None for "image_gpt_nano".
        num_layers: Number of layers.
        hidden_dim: Width.
        num_heads: Number of attention heads.
        tokenizer: The kind of a tokenizer that needs no fitting, "rgb"; or the path of a palette,
            of a tokenizer's folder, or of a model whose tokenizer to use. None to fit a palette
            to the training images.
        num_colors: Size of a palette that is fitted.
        epochs: Passes over the images, instead of `steps`; 20 if both are None.
        steps: Batches to train on, instead of `epochs`.
        batch_size: Images in a step, of all devices together; None for the preset's.
        learning_rate: The peak, after the warm-up; None for `presets.learning_rate`, the
            paper's for the nearest of its models.
        warmup_steps: Steps of linear warm-up; None for a pass over the images as in the paper,
            and at most half of the steps.
        mask_probability: Probability of a position to be masked, for BERT.
        class_conditional: Whether the model is conditioned on the classes of the data.
        label_dropout: Probability that training hides an image's label from such a model.
        snapshots: Number of models to keep: the last one, and those at the steps nearest to
            1/2, 1/4, … of all; fewer where these are the same step.
        probe_data: A source of labeled images, such as "folder:photos", to whose features a
            ridge probe is fitted at every evaluation; None for no probe.
        probe_layer: Layer of these features; None for the middle one.
        seed: Seed of every random choice.

    Raises:
        InputError: Settings that contradict each other or are out of range.
    """

    objective: str = "ar"
    image_size: int | None = None
    preset: str | None = None
    num_layers: int | None = None
    hidden_dim: int | None = None
    num_heads: int | None = None
    tokenizer: str | None = None
    num_colors: int | None = None
    epochs: float | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    mask_probability: float = paper.MASK_PROBABILITY
    class_conditional: bool = False
    label_dropout: float = presets.LABEL_DROPOUT
    snapshots: int = len(paper.SNAPSHOT_FRACTIONS)
    probe_data: str | None = None
    probe_layer: int | None = None
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_objective(self.objective)
        if self.class_conditional and self.objective == "bert":
            raise InputError(
                'class_conditional needs objective="ar": a "bert" model has no start vector that '
                "could stand for a class"
            )
        check_label_dropout(self.label_dropout)
        if self.snapshots < 1:
            raise InputError(f"snapshots must be at least 1, got {self.snapshots}")
        if self.probe_layer is not None and self.probe_data is None:
            raise InputError(f"probe_layer={self.probe_layer} needs probe_data, got none")
        if self.tokenizer is None:
            self.config()  # Raises what is wrong with the sizes.

    def read_tokenizer(self) -> ImageTokenizer | None:
        """Returns the tokenizer that is named, for the images of the model; None if none is.

        Raises:
            FileNotFoundError: There is no such tokenizer.
            InputError: It is for images of another size, cannot be read, or `num_colors` is
                given.
        """
        if self.tokenizer is None:
            return None
        if self.num_colors is not None:
            raise InputError(
                "num_colors is the size of a palette that is fitted, "
                f"got num_colors={self.num_colors} and tokenizer={self.tokenizer}"
            )
        default_size = presets.sizes_of(self.preset or presets.DEFAULT_PRESET)["image_size"]
        return read_tokenizer(self.tokenizer, self.image_size, default_size)

    def config(
        self, tokenizer: ImageTokenizer | None = None, num_classes: int | None = None
    ) -> ImageGPTConfig:
        """Returns the sizes of the model: those of the preset, unless given.

        Args:
            tokenizer: The model's, for images of one size, which gives `image_size`,
                `vocabulary_size` and `grid`; None for a palette that is fitted.
            num_classes: Number of classes of a class-conditional model.

        Raises:
            InputError: The sizes do not fit each other, or there is no such preset.
        """
        names = [field.name for field in dataclasses.fields(ImageGPTConfig)]
        given = {name: getattr(self, name) for name in names if hasattr(self, name)}
        given |= {"vocabulary_size": self.num_colors, "num_classes": num_classes}
        if tokenizer is not None:
            size, grid = tokenizer.image_size, tokenizer.grid
            given |= {"image_size": size, "vocabulary_size": tokenizer.vocabulary_size}
            given["grid"] = None if grid == (size, size) else grid
        preset = self.preset or presets.DEFAULT_PRESET
        sizes = {name: size for name, size in given.items() if size is not None}
        return ImageGPTConfig.preset(preset, **sizes)

    def completed(self) -> "Settings":
        """Returns these settings with a value for everything that was left out.

        `num_colors` stays None if a tokenizer is named.
        """
        preset = self.preset or presets.DEFAULT_PRESET
        values: dict[str, Any] = dict(presets.sizes_of(preset))
        num_colors = values.pop("vocabulary_size")
        if self.tokenizer is None:
            values["num_colors"] = num_colors
        tokenizer = self.read_tokenizer() if self.image_size is None else None
        if tokenizer is not None:
            values |= {"image_size": tokenizer.image_size}
        if self.steps is None:
            values["epochs"] = presets.EPOCHS
        values["batch_size"] = presets.BATCH_SIZES[preset]
        hidden_dim = self.hidden_dim or values["hidden_dim"]
        image_size = self.image_size or values["image_size"]
        values["learning_rate"] = presets.learning_rate(
            preset, hidden_dim, image_size, self.objective
        )
        missing = {name: value for name, value in values.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

    def schedule(self, steps_of_data: int) -> "Schedule":
        """Returns the steps of the training.

        Args:
            steps_of_data: Batches in a pass over the images.

        Raises:
            InputError: `epochs` is less than a step, or `warmup_steps` more than all of them.
        """
        total_steps = self.total_steps(steps_of_data)
        warmup_steps = self.warmup_steps
        if warmup_steps is None:
            warmup_steps = recipes.default_warmup_steps(steps_of_data, total_steps)
        if not 0 <= warmup_steps <= total_steps:
            raise InputError(
                f"warmup_steps must lie in 0…{total_steps}, the number of steps, got {warmup_steps}"
            )
        # Halved more often than that, the steps are less than 1.
        halvings = min(self.snapshots - 1, total_steps.bit_length())
        intervals = min(2**halvings, total_steps)
        return Schedule(
            warmup_steps,
            [_nearest(total_steps * (index + 1), intervals) for index in range(intervals)],
            {max(_nearest(total_steps, 2**count), 1) for count in range(halvings + 1)},
        )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The steps of a pre-training.

    Attributes:
        warmup_steps: Steps of the warm-up.
        evaluations: Steps after which the model is evaluated, ascending. The last one is the
            number of all steps.
        snapshots: Those of them after which the model is kept.
    """

    warmup_steps: int
    evaluations: list[int]
    snapshots: set[int]


def check_probe_layer(settings: Settings) -> None:
    """Raises `InputError` if completed settings name a layer that the model does not have."""
    layer, last = settings.probe_layer, settings.num_layers
    if layer is not None and not 0 <= layer <= (last or 0):
        raise InputError(f"probe_layer must lie in 0…{last}, got {layer}")


def _nearest(numerator: int, denominator: int) -> int:
    """Returns the integer nearest to a fraction, the larger of two equally near ones."""
    return (2 * numerator + denominator) // (2 * denominator)
