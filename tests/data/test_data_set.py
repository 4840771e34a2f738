import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from igpt_keras import InputError, data
from igpt_keras.data import (
    ArraySplit,
    Source,
    open_data,
    read_images,
    register_source,
    source_kinds,
)
from tests.data.properties import records


def labels_of(split):
    return [record.label for record in records(split, split.in_order())]


def names_of(split):
    return {record.name for record in records(split, split.in_order())}


@pytest.fixture
def folder(tmp_path):
    """20 images of each of two classes to train on, and 3 of each to test."""
    for split, count in (("train", 20), ("test", 3)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.full((2, 2, 3), 100 * label + index, np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index}.png")
    return tmp_path


def test_digits():
    data_set = open_data("digits")
    assert data_set.describe() == {
        "data": ["digits"],
        "name": "digits",
        "train": 1257,
        "validation": 180,
        "test": 360,
        "classes": 10,
        "labeled": True,
    }
    assert json.loads(json.dumps(data_set.describe())) == data_set.describe()


def test_a_tenth_of_a_folder_is_held_out(folder):
    data_set = open_data(f"folder:{folder}")
    assert data_set.class_names == ["cat", "dog"]
    splits = data_set.train, data_set.validation, data_set.test
    assert [split.num_examples for split in splits] == [36, 4, 6]
    assert not names_of(data_set.train) & names_of(data_set.validation)
    assert labels_of(data_set.test) == [0, 0, 0, 1, 1, 1]
    again, other = (open_data(f"folder:{folder}", seed=seed).validation for seed in (0, 1))
    assert names_of(again) == names_of(data_set.validation) != names_of(other)


def test_folding_the_held_out_images(folder):
    held_out = open_data(f"folder:{folder}")
    folded = open_data(f"folder:{folder}", train_on_validation=True)
    assert folded.validation is None
    assert names_of(folded.train) == names_of(held_out.train) | names_of(held_out.validation)
    assert folded.describe()["validation"] == 0


def test_folding_a_validation_split_of_its_own(folder):
    (folder / "validation" / "dog").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(folder / "validation" / "dog" / "a.png")
    data_set = open_data(f"folder:{folder}")
    assert (data_set.train.num_examples, data_set.validation.num_examples) == (40, 1)
    folded = open_data(f"folder:{folder}", train_on_validation=True)
    assert labels_of(folded.train) == [0] * 20 + [1] * 21
    digits = open_data("digits", train_on_validation=True)
    assert digits.train.num_examples == 1257 + 180


def test_a_mixture_validates_on_its_first_source(folder):
    flat = folder / "train" / "cat"
    specs = [f"folder:{folder}@augmentation=cifar", f"folder:{flat}@weight=2.5,augmentation=none"]
    data_set = open_data([*specs, "digits"])
    first, second, third = data_set.sources
    assert (first.weight, second.weight, third.weight) == (36, 2.5, 1257)
    assert (first.augmentation, second.augmentation, third.augmentation) == ("cifar", "none", None)
    assert second.split.num_examples == 20
    assert (data_set.validation.num_examples, data_set.test.num_examples) == (4, 6)
    assert data_set.describe()["train"] == 36 + 20 + 1257
    assert data_set.describe()["name"] == " + ".join([*specs, "digits"])
    with pytest.raises(InputError, match="labels come from one source"):
        data_set.labeled_train()


def test_labels_where_there_are_some(folder):
    data_set = open_data(f"folder:{folder}")
    assert data_set.labeled_train() is data_set.train
    unlabeled = open_data(f"folder:{folder / 'train' / 'cat'}")
    assert (unlabeled.class_names, unlabeled.describe()["labeled"]) == ([], False)
    with pytest.raises(InputError, match="cat has no labels"):
        unlabeled.labeled_train()


def test_held_out_images_have_labels_if_the_others_have(tmp_path):
    images = np.zeros((4, 2, 2, 3), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=[0, 1, 0, 1], x_val=images)
    with pytest.raises(InputError, match="validation must have labels, as .*, train has"):
        open_data(f"array:{tmp_path}/a.npz")


def test_another_split(folder):
    (folder / "train").rename(folder / "unlabelled")
    data_set = open_data(f"folder:{folder}@split=unlabelled")
    assert data_set.train.num_examples == 36


def test_an_at_sign_may_belong_to_a_path(folder):
    folder.rename(folder.parent / "me@home")
    data_set = open_data(f"folder:{folder.parent / 'me@home'}@weight=2")
    assert data_set.sources[0].weight == 2


def test_short_reprs(folder):
    data_set = open_data([f"folder:{folder}@weight=2", "digits"])
    assert repr(data_set) == (
        f"<DataSet 'folder:{folder}@weight=2 + digits': 1,293 training, 4 validation and 6 test "
        "images, 2 classes>"
    )
    assert repr(data_set.test) == f"<FileSplit 'folder:{folder}, test': 6 images, labeled>"


@pytest.fixture
def stripes(monkeypatch):
    """A kind of source that is registered here, as a plug-in would."""
    monkeypatch.setattr(source_kinds, "_entries", dict(source_kinds._entries))

    @register_source("stripes")
    def open_stripes(location="8", split=None, seed=0):
        size = int(location)
        images = np.full((20, size, size, 3), {None: 0, "bright": 200}[split], np.uint8)
        images[:, ::2] += np.arange(20, dtype=np.uint8)[:, None, None, None]
        return Source(ArraySplit(f"stripes of seed {seed}", images), validation_fraction=0.25)


def test_a_source_from_outside_the_package(stripes):
    data_set = open_data("stripes", seed=7)
    assert (data_set.train.num_examples, data_set.validation.num_examples) == (15, 5)
    assert data_set.train.name == "stripes of seed 7"
    assert data_set.test is None and data_set.class_names == []
    bright = open_data("stripes:4@split=bright,weight=2")
    assert bright.sources[0].weight == 2
    images = read_images(bright.train, image_size=4).images
    assert images.shape == (15, 4, 4, 3) and (images[:, 1] == 200).all()
    assert "stripes" in source_kinds.names()
    with pytest.raises(InputError, match="with a kind of array, .*, stripes, got 'zip:a'"):
        open_data("zip:a")


def test_names_are_listed_without_tensorflow():
    code = """
import sys
from igpt_keras.data import augmentations, source_kinds
print(*source_kinds.names(), *augmentations.names(), "tensorflow" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kinds = "array digits folder hf tar tfds tfrecord tokens"
    assert run.stdout.split() == [*kinds.split(), "none", "imagenet", "cifar", "False"]


def test_public_names():
    for name in data.__all__:
        assert getattr(data, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        data.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "data must be KIND:LOCATION, such as folder:PATH, with a kind of array, digits,"),
        ("photos", "data must be KIND:LOCATION"),
        ("zip:photos.zip", "data must be KIND:LOCATION"),
        ("folder", "lacks a location; expected folder:LOCATION"),
        ("folder:", "lacks a location"),
        ("digits:here", "has a location, but digits takes none"),
        ("digits@weight=many", "weight must be a positive number, got 'many' for digits, train"),
        ("digits@weight=0", "weight must be a positive number"),
        ("digits@weight=nan", "weight must be a positive number"),
        ("digits@augmentation=mnist", "augmentation must be one of"),
        ("digits@split=test", "names a split, but digits has none to choose from"),
        ("digits@weight=1,color=red", "has 'color=red' after @"),
        ("digits@weight=1,split", "has 'split' after @"),
        ([], "data must name at least one source"),
    ],
)
def test_unusable_notation(spec, message):
    with pytest.raises(InputError, match=message):
        open_data(spec)
