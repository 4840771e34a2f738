"""TensorFlow Datasets."""

import dataclasses
import hashlib
from types import ModuleType
from typing import Any

import tensorflow as tf

from igpt_keras import paper
from igpt_keras.data.sources.base import Source
from igpt_keras.data.splits import UNLABELED, held_out_count
from igpt_keras.data.streamed import StreamedSplit
from igpt_keras.errors import InputError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
IMAGENET = ("imagenet2012", "imagenet_resized", "downsampled_imagenet")


def open_tfds(name: str, split: str | None, data_dir: str | None) -> Source:
    """Opens a set of TensorFlow Datasets; downloads and prepares it if need be.

    The split to test on is `test`, or where there is none with labels, as for ImageNet,
    `validation`. A set that has both is validated on `validation`.

    Args:
        name: `NAME[/CONFIG][:VERSION]`.
        split: to train on, instead of `train`.
        data_dir: where sets are; TFDS' own default (`TFDS_DATA_DIR`, or
            ~/tensorflow_datasets) if None.

    Raises:
        InputError: tensorflow-datasets is not installed, no such set, one that cannot
            be prepared here, or one without images.
    """
    tfds = _import_tfds()
    builder = _prepared(tfds, name, data_dir)
    image, label = _features(tfds, builder, name)
    splits = builder.info.splits
    wanted = split or TRAIN
    trainable = sorted(splits.keys() - {VALIDATION, TEST})
    if wanted not in trainable:
        raise InputError(
            f"tfds:{name} has no split {wanted!r} to train on; it has {', '.join(trainable)}"
        )

    def part(key):
        part = TfdsSplit(f"tfds:{name}, {key}", tfds, builder, key, image, label)
        (first,) = part.items(None).take(1).as_numpy_iterator()
        # STL-10's unlabeled images have a class all the same: -1.
        return dataclasses.replace(part, label=None) if first["label"] == UNLABELED else part

    train = part(wanted)
    others = [part(key) for key in (TEST, VALIDATION) if key in splits]
    # The test split of ImageNet has no labels.
    others = [other for other in others if other.labeled or not train.labeled]
    imagenet = builder.name.startswith(IMAGENET)
    return Source(
        train=train,
        validation=others[1] if len(others) > 1 else None,
        test=others[0] if others else None,
        class_names=list(builder.info.features[label].names) if train.labeled else [],
        validation_fraction=(
            paper.IMAGENET_VALIDATION_FRACTION if imagenet else paper.VALIDATION_FRACTION
        ),
    )


@dataclasses.dataclass(frozen=True)
class TfdsSplit(StreamedSplit):
    """A split of a TFDS set.

    Attributes:
        name: for messages.
        tfds: the module, which is imported only where it is needed.
        builder: of the set, prepared.
        split: in TFDS' notation.
        image: name of the image feature.
        label: name of the class feature, or None.
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

    def items(self, seed: tf.Tensor | None) -> tf.data.Dataset:
        features = {key: True for key in (self.image, self.label) if key}
        decoding = self.tfds.decode.PartialDecoding(
            features, decoders={self.image: self.tfds.decode.SkipDecoding()}
        )
        reading = self.tfds.ReadConfig(
            shuffle_seed=seed,
            shuffle_reshuffle_each_iteration=False,
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
        return examples.map(self._item)

    def _item(self, example):
        label = example[self.label] if self.label else UNLABELED
        return {
            "index": tf.constant(0, tf.int64),
            "content": example[self.image],
            "label": tf.cast(label, tf.int32),
            "name": example["tfds_id"],
        }

    def hold_out(self, fraction: float, seed: int) -> "tuple[TfdsSplit, TfdsSplit]":
        """See `Split.hold_out`: the last images are held out, as TFDS stores sets shuffled."""
        if self.builder.info.disable_shuffling:
            raise InputError(
                f"{self.name} is stored in order (disable_shuffling), so that no random split can "
                "be held out; prepare it shuffled, or train on all of it (--train-on-validation)"
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
            status = tf.io.gfile.stat(str(path))
            digest.update(f"{path} {status.length} {status.mtime_nsec}\n".encode())
        return digest.hexdigest()


def _import_tfds() -> ModuleType:
    try:
        # Needed, though not required, by tensorflow-datasets 4.9.
        import importlib_resources  # noqa: F401
        import tensorflow_datasets
    except ImportError as error:
        raise InputError(
            f"data of kind tfds needs TensorFlow Datasets ({error}); install it with "
            "`pip install tensorflow-datasets importlib_resources`"
        ) from None
    return tensorflow_datasets


def _prepared(tfds, name: str, data_dir: str | None):
    """The builder of a set that is ready to be read."""
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (ValueError, AssertionError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"tfds:{name} is neither a set of TensorFlow Datasets nor one in "
            f"{data_dir or 'TFDS_DATA_DIR or ~/tensorflow_datasets'} ({reason})"
        ) from error
    if not builder.is_prepared():
        try:
            builder.download_and_prepare()
        except Exception as error:
            # Each set prepares itself by its own program, which may fail in any way.
            reason = " ".join(str(error).split())
            raise InputError(
                f"tfds:{name} cannot be prepared in {builder.data_dir} ({reason}); without a "
                "network, prepare it elsewhere and give the folder of all sets as --data-dir"
            ) from error
    return builder


def _features(tfds, builder, name: str) -> tuple[str, str | None]:
    """The names of the image and of the class feature.

    Those of `supervised_keys`, or `image` and `label`, or the first of their kind.
    """
    features = dict(builder.info.features.items())
    supervised = [key for key in builder.info.supervised_keys or () if isinstance(key, str)]

    def first(kind):
        preferred = (*supervised, "image", "label", *sorted(features))
        keys = [key for key in preferred if isinstance(features.get(key), kind)]
        return keys[0] if keys else None

    image = first(tfds.features.Image)
    if image is None:
        others = ", ".join(sorted(features))
        raise InputError(f"tfds:{name} has no image among its features: {others}")
    return image, first(tfds.features.ClassLabel)
