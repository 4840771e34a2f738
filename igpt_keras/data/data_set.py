"""One notation for all sources: `KIND:LOCATION` with `@KEY=VALUE,…` at the end.

| kind | location |
| --- | --- |
| `digits` | none: scikit-learn's handwritten digits |
| `folder` | a folder of images |
| `tfds` | `NAME[/CONFIG][:VERSION]` of TensorFlow Datasets |
| `array` | a .npy or .npz file |
| `tar` | tar files, `*` and `?` allowed |
| `tfrecord` | TFRecord files of `tf.train.Example`, `*` and `?` allowed |

| key | value |
| --- | --- |
| `weight` | share of this source in a mixture, relative to the others; its number of images |
| `augmentation` | of this source: none, imagenet or cifar; that of the run |
| `split` | the split to train on, where it is not `train` (STL-10's `unlabelled`) |
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from igpt_keras.data.augmentation import augmentation
from igpt_keras.data.sources.array import open_arrays
from igpt_keras.data.sources.base import Source
from igpt_keras.data.sources.digits import load_digits
from igpt_keras.data.sources.folder import open_folder
from igpt_keras.data.sources.shards import open_tar, open_tfrecord
from igpt_keras.data.sources.tfds import open_tfds
from igpt_keras.data.splits import ArraySplit, Split
from igpt_keras.errors import InputError

KINDS = ("digits", "folder", "tfds", "array", "tar", "tfrecord")
WITH_SPLIT = ("folder", "tfds", "tar")
OPTIONS = ("weight", "augmentation", "split")
# An "@" elsewhere belongs to the location.
SPEC = re.compile(
    rf"(?P<kind>[a-z]+)(?::(?P<location>.*?))?(?:@(?P<options>(?:{'|'.join(OPTIONS)})=.*))?"
)


@dataclasses.dataclass(frozen=True)
class WeightedSource:
    """Images to train on.

    Attributes:
        split: the images.
        weight: share in the mixture, relative to the others.
        augmentation: its name, or None for that of the run.
    """

    split: Split
    weight: float
    augmentation: str | None


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Images to train, validate and test on.

    Attributes:
        specs: the notation it was opened by.
        sources: what is trained on; the first is the main one, from which
            `validation` and `test` come.
        validation: None if folded into the training split.
        test: None where the source has none.
        class_names: one for each label; empty without labels.
    """

    specs: list[str]
    sources: list[WeightedSource]
    validation: Split | None
    test: Split | None
    class_names: list[str]

    @property
    def train(self) -> Split:
        """The main training split."""
        return self.sources[0].split

    def labeled_train(self) -> Split:
        """The training split, for what needs labels.

        Raises:
            InputError: several sources, or images without labels.
        """
        if len(self.sources) > 1:
            raise InputError(f"labels come from one source, got data={' '.join(self.specs)}")
        if not self.train.labeled:
            raise InputError(f"data={self.specs[0]} has no labels")
        return self.train

    def describe(self) -> dict[str, Any]:
        """What a result says of the data: JSON-serializable."""
        return {
            "data": list(self.specs),
            "name": " + ".join(self.specs),
            "train": sum(source.split.num_examples for source in self.sources),
            "validation": self.validation.num_examples if self.validation else 0,
            "test": self.test.num_examples if self.test else 0,
            "classes": len(self.class_names),
            "labeled": self.train.labeled,
        }


def open_data(
    data: str | Sequence[str],
    *,
    data_dir: str | None = None,
    train_on_validation: bool = False,
    seed: int = 0,
) -> DataSet:
    """Opens one source or a mixture; reads no image yet.

    Args:
        data: `KIND:LOCATION[@KEY=VALUE,…]`, or several of them. Validation and test
            split come from the first; the others only add images to train on.
        data_dir: where TFDS keeps its sets.
        train_on_validation: train on training and validation split (paper, appendix: once
            hyperparameters are chosen). No validation split is left.
        seed: of which images are held out.

    Raises:
        FileNotFoundError: nothing there.
        InputError: a notation that is none of these, or a source that cannot be read.
    """
    specs = [data] if isinstance(data, str) else list(data)
    if not specs:
        raise InputError("data must name at least one source, such as folder:PATH")
    main, *others = [_open(spec, data_dir, seed) for spec in specs]
    source, options = main
    train, validation = source.train, source.validation
    if train_on_validation:
        train = train.joined(validation) if validation else train
        validation = None
    elif validation is None:
        train, validation = train.hold_out(source.validation_fraction, seed)
    sources = [_weighted(train, options)]
    sources += [_weighted(other.train, options) for other, options in others]
    return DataSet(specs, sources, validation, source.test, source.class_names)


def _weighted(split: Split, options: dict[str, str]) -> WeightedSource:
    weight = options.get("weight", str(split.num_examples))
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise InputError(f"weight must be a positive number, got {weight!r} for {split.name}")
    name = options.get("augmentation")
    if name is not None:
        augmentation(name)
    return WeightedSource(split, value, name)


def _open(spec: str, data_dir: str | None, seed: int) -> tuple[Source, dict[str, str]]:
    kind, location, options = _parse(spec)
    split = options.get("split")
    if split and kind not in WITH_SPLIT:
        raise InputError(f"data={spec!r} has split={split}, but only {_or(WITH_SPLIT)} have splits")
    openers = {
        "digits": lambda: _digits(seed),
        "folder": lambda: open_folder(location, split),
        "tfds": lambda: open_tfds(location, split, data_dir),
        "array": lambda: open_arrays(location),
        "tar": lambda: open_tar(location, split),
        "tfrecord": lambda: open_tfrecord(location),
    }
    return openers[kind](), options


def _parse(spec: str) -> tuple[str, str, dict[str, str]]:
    match = SPEC.fullmatch(spec)
    if not match or match["kind"] not in KINDS:
        raise InputError(
            f"data must be digits or KIND:LOCATION with a kind of {_or(KINDS[1:])}, got {spec!r}"
        )
    if (match["kind"] == "digits") == bool(match["location"]):
        raise InputError(f"data={spec!r} lacks a location, or has one too many")
    options = {}
    for option in (match["options"] or "").split(","):
        key, equals, value = option.partition("=")
        if option and (key not in OPTIONS or not value):
            raise InputError(
                f"data={spec!r} has {option!r} after @; expected KEY=VALUE with a key of "
                f"{', '.join(OPTIONS)}"
            )
        if option:
            options[key] = value
    return match["kind"], match["location"] or "", options


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _digits(seed: int) -> Source:
    digits = load_digits(seed)
    splits = {
        name: ArraySplit(f"digits, {name}", split.images, split.labels)
        for name, split in (
            ("train", digits.train),
            ("validation", digits.validation),
            ("test", digits.test),
        )
    }
    return Source(**splits, class_names=digits.class_names)
