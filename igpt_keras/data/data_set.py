"""Opening data sets: one source or a mixture, in the notation `KIND:LOCATION@KEY=VALUE,…`."""

import dataclasses
import inspect
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from igpt_keras.data.augmentation import augmentations
from igpt_keras.data.files import printable
from igpt_keras.data.source import Source
from igpt_keras.data.sources import source_kinds
from igpt_keras.data.splits import Split
from igpt_keras.errors import InputError

OPTIONS = ("weight", "augmentation", "split")
# An "@" that no option follows belongs to the location.
SPEC = re.compile(
    rf"(?P<kind>\w+)(?::(?P<location>.*?))?(?:@(?P<options>(?:{'|'.join(OPTIONS)})=.*))?"
)


@dataclasses.dataclass(frozen=True)
class WeightedSource:
    """A source in a mixture to train on.

    Attributes:
        split: The images.
        weight: Share of the source in the mixture, relative to the others.
        augmentation: Name of its augmentation; None for that of the run.
    """

    split: Split
    weight: float
    augmentation: str | None


@dataclasses.dataclass(frozen=True, repr=False)
class DataSet:
    """Images to train, validate and test on.

    Attributes:
        specs: The sources in the notation of `open_data`.
        sources: The mixture to train on. `validation` and `test` belong to the first source.
        validation: Images to validate on; None if they are trained on.
        test: Images to test on; None if the source has none.
        class_names: A name for each label; empty without labels.
    """

    specs: list[str]
    sources: list[WeightedSource]
    validation: Split | None
    test: Split | None
    class_names: list[str]

    @property
    def train(self) -> Split:
        """The training images of the first source."""
        return self.sources[0].split

    def labeled_train(self) -> Split:
        """Returns the training images, for methods that need labels.

        Raises:
            InputError: There are several sources, or the images have no labels.
        """
        if len(self.sources) > 1:
            raise InputError(f"labels come from one source, got data={' '.join(self.specs)}")
        if not self.train.labeled:
            raise InputError(f"data={self.specs[0]} has no labels")
        return self.train

    def describe(self) -> dict[str, Any]:
        """Returns what a run's result says about its data, JSON-serializable."""
        return {
            "data": list(self.specs),
            "name": printable(" + ".join(self.specs)),
            "train": sum(source.split.num_examples for source in self.sources),
            "validation": self.validation.num_examples if self.validation else 0,
            "test": self.test.num_examples if self.test else 0,
            "classes": len(self.class_names),
            "labeled": self.train.labeled,
        }

    def __repr__(self) -> str:
        about = self.describe()
        return (
            f"<DataSet {about['name']!r}: {about['train']:,} training, "
            f"{about['validation']:,} validation and {about['test']:,} test images, "
            f"{about['classes']} classes>"
        )


def open_data(
    data: str | Sequence[str],
    *,
    data_dir: str | os.PathLike | None = None,
    train_on_validation: bool = False,
    seed: int = 0,
) -> DataSet:
    """Opens one source or a mixture of sources, without reading an image.

    A source is `KIND:LOCATION` with optional settings `@KEY=VALUE,…`. The kinds are `digits`
    (which has no location), `folder`, `array`, `tar`, `tfrecord`, `tfds` and those of plug-ins;
    see `igpt_keras.data.sources`.

    | key | value |
    | --- | --- |
    | `weight` | share of the source in a mixture; its number of images by default |
    | `augmentation` | `none`, `imagenet` or `cifar`; that of the run by default |
    | `split` | the split to train on instead of `train` (STL-10's `unlabelled`) |

    Args:
        data: A source, or several. Validation and test images come from the first one; the
            others add images to train on.
        data_dir: Folder in which TensorFlow Datasets, or the library of Hugging Face, keeps its
            data sets.
        train_on_validation: Whether to train on the validation images too (paper, appendix
            A.1: once hyperparameters are chosen), which leaves none to validate on.
        seed: Determines which images are held out for validation.

    Raises:
        FileNotFoundError: There is nothing at a location.
        InputError: A source is not in this notation, or cannot be read; or its training images
            have labels and the others have none.

    Example:
        ```python
        from igpt_keras.data import open_data, read_images

        data = open_data("digits")
        train = read_images(data.train, image_size=8)
        train.images  # uint8 [1257, 8, 8, 3]
        train.labels  # int32 [1257]
        ```
    """
    specs = [data] if isinstance(data, str) else list(data)
    if not specs:
        raise InputError("data must name at least one source, such as folder:PATH")
    (source, options), *others = [_open(spec, data_dir, seed) for spec in specs]
    train, validation = source.train, source.validation
    for held_out in (validation, source.test):
        if held_out is not None and train.labeled and not held_out.labeled:
            raise InputError(f"{held_out.name} must have labels, as {train.name} has")
    if train_on_validation:
        train = train.joined(validation) if validation else train
        validation = None
    elif validation is None:
        train, validation = train.hold_out(source.validation_fraction, seed)
    sources = [_weighted(train, options)]
    sources += [_weighted(other.train, options) for other, options in others]
    return DataSet(specs, sources, validation, source.test, source.class_names)


def folder_of_tokens(specs: Sequence[str]) -> str | None:
    """Returns the folder of the first source of tokens among `specs`; None if there is none."""
    return next((_parse(spec)[1] for spec in specs if spec.startswith("tokens:")), None)


def _weighted(split: Split, options: dict[str, str]) -> WeightedSource:
    weight = options.get("weight", str(split.num_examples))
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise InputError(f"weight must be a positive number, got {weight!r} for {split.name}")
    augmentation = options.get("augmentation")
    if augmentation is not None:
        augmentations.get(augmentation)
    return WeightedSource(split, value, augmentation)


def _open(
    spec: str, data_dir: str | os.PathLike | None, seed: int
) -> tuple[Source, dict[str, str]]:
    """Opens a source with those arguments that its kind takes; see `source_kinds`."""
    kind, location, options = _parse(spec)
    open_source = source_kinds.get(kind)
    parameters = inspect.signature(open_source).parameters
    arguments: dict[str, Any] = {"data_dir": data_dir, "seed": seed}
    if location:
        arguments["location"] = location
        if "location" not in parameters:
            raise InputError(f"data={spec!r} has a location, but {kind} takes none")
    elif "location" in parameters and parameters["location"].default is inspect.Parameter.empty:
        raise InputError(f"data={spec!r} lacks a location; expected {kind}:LOCATION")
    if "split" in options:
        arguments["split"] = options["split"]
        if "split" not in parameters:
            raise InputError(f"data={spec!r} names a split, but {kind} has none to choose from")
    taken = {name: value for name, value in arguments.items() if name in parameters}
    return open_source(**taken), options


def _parse(spec: str) -> tuple[str, str, dict[str, str]]:
    """Returns the kind, the location ("" for none) and the options of a source."""
    match = SPEC.fullmatch(spec)
    if not match or match["kind"] not in source_kinds.names():
        raise InputError(
            f"data must be KIND:LOCATION, such as folder:PATH, with a kind of "
            f"{', '.join(source_kinds.names())}, got {spec!r}"
        )
    options = {}
    for option in filter(None, (match["options"] or "").split(",")):
        key, _, value = option.partition("=")
        if key not in OPTIONS or not value:
            raise InputError(
                f"data={spec!r} has {option!r} after @; expected KEY=VALUE with a key of "
                f"{', '.join(OPTIONS)}"
            )
        options[key] = value
    return match["kind"], match["location"] or "", options
