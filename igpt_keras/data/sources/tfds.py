"""TensorFlow Datasets (the extra `tfds`)."""

import dataclasses
import hashlib
import os
import re
from types import ModuleType
from typing import Any

import tensorflow as tf

from igpt_keras import paper
from igpt_keras.data.files import update_with_content
from igpt_keras.data.source import TEST, TRAIN, VALIDATION, Source
from igpt_keras.data.sources import register_source
from igpt_keras.data.sources._files import LeftOut
from igpt_keras.data.splits import UNLABELED, check_count, held_out_count
from igpt_keras.data.streamed_split import StreamedSplit
from igpt_keras.errors import InputError
from igpt_keras.extras import require

# A split of TensorFlow Datasets, or a slice of one, as this module writes them.
SLICE = re.compile(r"^([^[]+)(?:\[(\d*):(\d*)\])?$")
IMAGENET = ("imagenet2012", "imagenet_resized", "downsampled_imagenet")


@register_source("tfds")
def open_tfds(
    location: str, split: str | None = None, data_dir: str | os.PathLike | None = None
) -> Source:
    """Opens a data set of TensorFlow Datasets; downloads and prepares it first if necessary.

    The test split is `test`, or `validation` if `test` is missing or, as for ImageNet, has no
    labels. If both serve, `validation` is for validation.

    Args:
        location: `NAME[/CONFIG][:VERSION]`.
        split: Name of the split to train on instead of `train`.
        data_dir: Folder of all data sets; None for the default of TensorFlow Datasets
            (`TFDS_DATA_DIR`, or ~/tensorflow_datasets).

    Raises:
        InputError: TensorFlow Datasets is not installed, the data set does not exist or cannot
            be prepared, or it has no images.
    """
    # tensorflow-datasets 4.9 imports importlib_resources without requiring it.
    require("importlib_resources", "tfds")
    tfds = require("tensorflow_datasets", "tfds")
    builder = _prepared(tfds, location, None if data_dir is None else os.path.expanduser(data_dir))
    image, label = _features(tfds, builder, location)
    available = builder.info.splits
    wanted = split or TRAIN
    trainable = sorted(available.keys() - {VALIDATION, TEST})
    if wanted not in trainable:
        raise InputError(
            f"tfds:{location} has no split {wanted!r} to train on; it has {', '.join(trainable)}"
        )

    def open_split(key: str) -> TfdsSplit:
        opened = TfdsSplit(f"tfds:{location}, {key}", tfds, builder, key, image, label)
        check_count(opened.num_examples, opened.name)
        (first,) = opened.references(None).take(1).as_numpy_iterator()
        # The unlabeled images of STL-10 have the label -1.
        return dataclasses.replace(opened, label=None) if first["label"] == UNLABELED else opened

    train = open_split(wanted)
    held_out = [open_split(key) for key in (TEST, VALIDATION) if key in available]
    unlabeled = [other for other in held_out if train.labeled and not other.labeled]
    held_out = [other for other in held_out if other not in unlabeled]
    left_out = LeftOut(f"tfds:{location}")
    left_out.add("split{s} without labels", *(other.split for other in unlabeled))
    left_out.warn()
    imagenet = builder.name.startswith(IMAGENET)
    return Source(
        train=train,
        validation=held_out[1] if len(held_out) > 1 else None,
        test=held_out[0] if held_out else None,
        class_names=list(builder.info.features[label].names) if train.labeled else [],
        validation_fraction=(
            paper.IMAGENET_VALIDATION_FRACTION if imagenet else paper.VALIDATION_FRACTION
        ),
    )


@dataclasses.dataclass(frozen=True, repr=False)
class TfdsSplit(StreamedSplit):
    """A split of a data set of TensorFlow Datasets.

    Attributes:
        name: Name for error messages.
        tfds: The module `tensorflow_datasets`.
        builder: Builder of the data set, which is prepared.
        split: The split in the notation of TensorFlow Datasets.
        image: Name of the image feature.
        label: Name of the class feature, or None.
    """

    name: str
    tfds: ModuleType
    builder: Any
    split: str
    image: str
    label: str | None

    @property
    def num_examples(self) -> int:
        return self.builder.info.splits[self.split].num_examples

    @property
    def labeled(self) -> bool:
        return self.label is not None

    def references(self, seed: tf.Tensor | None) -> tf.data.Dataset:
        features = {key: True for key in (self.image, self.label) if key}
        decoding = self.tfds.decode.PartialDecoding(
            features, decoders={self.image: self.tfds.decode.SkipDecoding()}
        )
        reading = self.tfds.ReadConfig(
            shuffle_seed=seed,
            shuffle_reshuffle_each_iteration=False,
            # In order, one file follows the other, so that a section is a slice of the split.
            **({"interleave_cycle_length": 1} if seed is None else {}),
            try_autocache=False,
            skip_prefetch=True,
            add_tfds_id=True,
        )
        examples = self.builder.as_dataset(
            split=self.split,
            shuffle_files=seed is not None and not self.builder.info.disable_shuffling,
            decoders=decoding,
            read_config=reading,
        )
        return examples.map(self._reference)

    def _reference(self, example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        label = example[self.label] if self.label else UNLABELED
        return {
            "index": tf.constant(0, tf.int64),
            "image_bytes": example[self.image],
            "label": tf.cast(label, tf.int32),
            "name": example["tfds_id"],
        }

    def section(self, start: int, stop: int) -> tf.data.Dataset:
        slices, first = [], 0
        for name, low, high in (SLICE.findall(part)[0] for part in self.split.split("+")):
            low, high = int(low or 0), int(high or self.builder.info.splits[name].num_examples)
            begin, end = low + max(start - first, 0), min(low + stop - first, high)
            if begin < end:
                slices.append(f"{name}[{begin}:{end}]")
            first += high - low
        section = dataclasses.replace(self, split="+".join(slices)) if slices else self
        return section.references(None).take(stop - start)

    def hold_out(self, fraction: float, seed: int) -> "tuple[TfdsSplit, TfdsSplit]":
        """Holds out the last images: TensorFlow Datasets stores data sets shuffled."""
        if self.builder.info.disable_shuffling:
            raise InputError(
                f"{self.name} is stored in order (disable_shuffling), so no random images of it "
                "can be held out; prepare it shuffled, or pass train_on_validation=True to train "
                "on all of it"
            )
        first = self.num_examples - held_out_count(self, fraction)
        return (
            dataclasses.replace(self, split=f"{self.split}[:{first}]"),
            dataclasses.replace(
                self, name=f"{self.name} (held out)", split=f"{self.split}[{first}:]"
            ),
        )

    def joined(self, other: "TfdsSplit") -> "TfdsSplit":
        return dataclasses.replace(
            self, name=f"{self.name}+{other.split}", split=f"{self.split}+{other.split}"
        )

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.split, self.image, self.label)).encode())
        for path in self.builder.info.splits[self.split].filepaths:
            digest.update(f"{os.path.basename(path)} ".encode())
            with tf.io.gfile.GFile(str(path), "rb") as file:
                update_with_content(digest, file, 0, file.size())
        return digest.hexdigest()


def _prepared(tfds: ModuleType, location: str, data_dir: str | None) -> Any:
    """Returns the builder of a data set that is ready to be read."""
    try:
        builder = tfds.builder(location, data_dir=data_dir)
    except (ValueError, AssertionError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"tfds:{location} is neither a set of TensorFlow Datasets nor one in "
            f"{data_dir or 'TFDS_DATA_DIR or ~/tensorflow_datasets'} ({reason})"
        ) from error
    if not builder.is_prepared():
        try:
            builder.download_and_prepare()
        except Exception as error:
            # Each data set has its own code to prepare it, which may raise anything.
            reason = " ".join(str(error).split())
            raise InputError(
                f"tfds:{location} cannot be prepared in {builder.data_dir} ({reason}); without a "
                "network, prepare it elsewhere and pass the folder of all data sets as data_dir"
            ) from error
    return builder


def _features(tfds: ModuleType, builder: Any, location: str) -> tuple[str, str | None]:
    """Returns the names of the image feature and of the class feature.

    They are those of `supervised_keys`, or `image` and `label`, or the first of their kind.
    """
    features = dict(builder.info.features.items())
    supervised = [key for key in builder.info.supervised_keys or () if isinstance(key, str)]

    def first(kind: type) -> str | None:
        preferred = (*supervised, "image", "label", *sorted(features))
        return next((key for key in preferred if isinstance(features.get(key), kind)), None)

    image = first(tfds.features.Image)
    if image is None:
        raise InputError(
            f"tfds:{location} has no image among its features: {', '.join(sorted(features))}"
        )
    return image, first(tfds.features.ClassLabel)
