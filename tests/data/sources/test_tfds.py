import logging
import sys

import numpy as np
import pytest
from PIL import Image

from igpt_keras import ColorPalette, InputError
from igpt_keras.data.data_set import open_data
from igpt_keras.data.image_decoding import decode
from igpt_keras.data.stream import TrainingStream
from tests.data.properties import check_hold_out, check_split, records

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("importlib_resources")
logging.getLogger("absl").setLevel(logging.ERROR)


def images(count, first=0):
    values = (np.arange(first, first + count) % 256)[:, None, None, None]
    return np.broadcast_to(values, (count, 2, 2, 3)).astype(np.uint8)


def store(folder, name, splits, version="1.0.0", features=None, **settings):
    """Writes a set; `splits` hold (images, labels)."""
    classes = tfds.features.ClassLabel(num_classes=10)
    features = features or {"image": tfds.features.Image(shape=(None, None, 3)), "label": classes}
    image, label = features
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            split: [
                (index, {image: pixels, label: int(number)})
                for index, (pixels, number) in enumerate(zip(*values, strict=True))
            ]
            for split, values in splits.items()
        },
        data_dir=folder,
        **settings,
    )


def values(split):
    """The grays of all images and their labels, in order of the grays."""
    read = records(split, split.in_order())
    return sorted((int(decode(record.image)[0, 0, 0]), record.label) for record in read)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """CIFAR-10, STL-10, ImageNet and a set of the user's own, as TFDS has them but small."""
    folder = tmp_path_factory.mktemp("tfds")
    labels = np.arange(200) % 10
    store(
        folder,
        "cifar10",
        {"train": (images(50), labels[:50]), "test": (images(10, 100), labels[:10])},
        version=tfds.builder("cifar10", data_dir=folder).version,
    )
    store(
        folder,
        "stl10",
        {
            "train": (images(20), labels[:20]),
            "test": (images(10, 100), labels[:10]),
            "unlabelled": (images(30, 200), np.full(30, -1)),
        },
        version=tfds.builder("stl10", data_dir=folder).version,
    )
    store(
        folder,
        "imagenet2012",
        {
            "train": (images(75), labels[:75]),
            "validation": (images(8, 100), labels[:8]),
            "test": (images(5, 200), np.full(5, -1)),
        },
        version=tfds.builder("imagenet2012", data_dir=folder).version,
    )
    store(
        folder,
        "own",
        {
            "train": (images(12), labels[:12]),
            "validation": (images(3, 100), labels[:3]),
            "test": (images(4, 200), labels[:4]),
        },
    )
    return str(folder)


def expected(first, count):
    return [((first + index) % 256, index % 10) for index in range(count)]


def test_a_tenth_of_cifar_is_held_out(data_dir):
    data_set = open_data("tfds:cifar10", data_dir=data_dir)
    assert (data_set.train.num_examples, data_set.validation.num_examples) == (45, 5)
    assert sorted(values(data_set.train) + values(data_set.validation)) == expected(0, 50)
    assert values(data_set.test) == expected(100, 10)
    assert len(data_set.class_names) == 10
    assert data_set.train.labeled
    folded = open_data("tfds:cifar10", data_dir=data_dir, train_on_validation=True)
    assert values(folded.train) == expected(0, 50)


def test_of_imagenet_4_percent_are_held_out_and_its_validation_part_is_to_test(data_dir):
    data_set = open_data("tfds:imagenet2012:5.*.*", data_dir=data_dir)
    assert (data_set.train.num_examples, data_set.validation.num_examples) == (72, 3)
    assert sorted(values(data_set.train) + values(data_set.validation)) == expected(0, 75)
    assert values(data_set.test) == expected(100, 8)


def test_unlabeled_images_only_when_asked_for(data_dir):
    data_set = open_data("tfds:stl10", data_dir=data_dir)
    assert (data_set.train.num_examples, data_set.validation.num_examples) == (18, 2)
    unlabeled = open_data("tfds:stl10@split=unlabelled", data_dir=data_dir)
    assert not unlabeled.train.labeled
    assert unlabeled.class_names == []
    assert (unlabeled.train.num_examples, unlabeled.validation.num_examples) == (27, 3)
    assert {label for _, label in values(unlabeled.train)} == {-1}


@pytest.mark.slow
def test_a_validation_part_of_its_own(data_dir):
    data_set = open_data("tfds:own", data_dir=data_dir)
    assert values(data_set.train) == expected(0, 12)
    assert values(data_set.validation) == expected(100, 3)
    assert values(data_set.test) == expected(200, 4)
    folded = open_data("tfds:own:1.0.0", data_dir=data_dir, train_on_validation=True)
    assert folded.validation is None
    assert values(folded.train) == expected(0, 12) + expected(100, 3)
    check_split(folded.train)


def test_epochs_and_held_out_images(data_dir):
    whole = open_data("tfds:cifar10", data_dir=data_dir, train_on_validation=True).train
    check_hold_out(whole, 0.1, 5)


def test_images_come_as_they_are_stored(data_dir):
    split = open_data("tfds:own", data_dir=data_dir).train
    record = next(records(split, split.in_order()))
    assert record.image.startswith(b"\x89PNG")
    assert "own-train.tfrecord" in record.name


def test_a_folder_becomes_a_set(tmp_path):
    for split, count in (("train", 10), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.full((3, 5, 3), 100 * label + index, np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{index}.png")
    folder = tfds.ImageFolder(str(tmp_path / "photos"))
    tfds.dataset_builders.store_as_tfds_dataset(
        name="photos",
        version="1.0.0",
        features=folder.info.features,
        split_datasets={split: folder.as_dataset(split=split) for split in folder.info.splits},
        data_dir=tmp_path / "sets",
    )
    data_set = open_data("tfds:photos", data_dir=str(tmp_path / "sets"))
    assert data_set.class_names == ["cat", "dog"]
    both = values(data_set.train) + values(data_set.validation)
    assert sorted(both) == [(100 * label + i, label) for label in range(2) for i in range(10)]
    assert values(data_set.test) == [(0, 0), (1, 0), (100, 1), (101, 1)]
    grays = ColorPalette(np.repeat(np.arange(256)[:, None] / 127.5 - 1, 3, axis=1))
    stream = TrainingStream(data_set.sources, grays.bind(1), 6, labels=True)
    tokens, labels = next(iter(stream.dataset()))
    np.testing.assert_array_equal(tokens.numpy()[:, 0] // 100, labels)


def test_the_supervised_class_is_taken(tmp_path):
    features = {
        "photo": tfds.features.Image(shape=(None, None, 3)),
        "kind": tfds.features.ClassLabel(names=["a", "b"]),
    }
    store(tmp_path, "named", {"train": (images(4), [0, 1, 0, 1])}, features=features)
    data_set = open_data("tfds:named", data_dir=str(tmp_path), train_on_validation=True)
    assert data_set.class_names == ["a", "b"]
    assert values(data_set.train) == [(0, 0), (1, 1), (2, 0), (3, 1)]
    assert data_set.test is None


def test_the_default_folder_of_tfds(data_dir, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", data_dir)
    assert open_data("tfds:own").train.num_examples == 12


def test_the_fingerprint_tells_sets_and_parts(data_dir):
    data_set = open_data("tfds:cifar10", data_dir=data_dir)
    splits = data_set.train, data_set.validation, data_set.test
    assert len({split.fingerprint() for split in splits}) == 3
    again = open_data("tfds:cifar10", data_dir=data_dir)
    assert again.train.fingerprint() == data_set.train.fingerprint()


def test_sets_that_are_stored_in_order_are_not_divided(tmp_path):
    store(tmp_path, "ordered", {"train": (images(12), np.zeros(12))}, disable_shuffling=True)
    with pytest.raises(InputError, match="ordered, train is stored in order.*train_on_validation"):
        open_data("tfds:ordered", data_dir=str(tmp_path))
    data_set = open_data("tfds:ordered", data_dir=str(tmp_path), train_on_validation=True)
    check_split(data_set.train)


class Unreachable(tfds.core.GeneratorBasedBuilder):
    """A set whose site cannot be reached."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({}))

    def _split_generators(self, manager):
        raise ConnectionError("no route\nto host")

    def _generate_examples(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfds:nosuchset", "nosuchset is neither a set of TensorFlow Datasets nor one in .*not fo"),
        ("tfds:cifar10:1.0.0", "cannot be loaded at version 1.0.0"),
        ("tfds:cifar10/large", "BuilderConfig large not found"),
        (
            "tfds:imagenet2012",
            "cannot be prepared in .*Manual directory .*image-net.org/.*data_dir",
        ),
        ("tfds:unreachable", "cannot be prepared in .*no route to host.*data_dir"),
    ],
)
def test_sets_that_cannot_be_read_say_what_to_do(tmp_path, spec, message):
    with pytest.raises(InputError, match=message):
        open_data(spec, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfds:cifar10@split=unlabelled", "has no split 'unlabelled' to train on; it has train"),
        ("tfds:own@split=test", "has no split 'test' to train on; it has train"),
    ],
)
def test_unusable_splits(data_dir, spec, message):
    with pytest.raises(InputError, match=message):
        open_data(spec, data_dir=data_dir)


def test_sets_without_images(tmp_path):
    features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
    store(tmp_path, "texts", {"train": (["a", "b"], [0, 1])}, features=features)
    with pytest.raises(InputError, match="texts has no image among its features: label, text"):
        open_data("tfds:texts", data_dir=str(tmp_path))


def test_without_tensorflow_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match=r"tensorflow_datasets is not installed.*\[tfds\]"):
        open_data("tfds:cifar10")
