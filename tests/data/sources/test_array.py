import os

import numpy as np
import pytest

from igpt_keras import InputError
from igpt_keras.data.sources import array
from igpt_keras.data.sources.array import open_array
from igpt_keras.errors import InputWarning

IMAGES = np.random.default_rng(41).integers(0, 256, (6, 2, 3, 3)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def images_of(split):
    return np.stack([split[index].image for index in range(split.num_examples)])


def test_npy_is_mapped_and_unlabeled(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    source = open_array(str(tmp_path / "a.npy"))
    assert isinstance(source.train.images, np.memmap)
    np.testing.assert_array_equal(images_of(source.train), IMAGES)
    assert not source.train.labeled
    assert (source.validation, source.test, source.class_names) == (None, None, [])


@pytest.mark.parametrize("shape", [(6, 2, 3, 1), (6, 2, 3)])
def test_gray_images(tmp_path, shape):
    gray = IMAGES[..., :1]
    np.save(tmp_path / "a.npy", gray.reshape(shape))
    split = open_array(str(tmp_path / "a.npy")).train
    np.testing.assert_array_equal(images_of(split), np.repeat(gray, 3, axis=-1))


def test_npz_with_three_parts(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        images=IMAGES,
        labels=LABELS,
        validation_images=IMAGES[:2],
        validation_labels=LABELS[:2],
        test_images=IMAGES[2:],
        test_labels=LABELS[2:] + 1,
    )
    source = open_array(str(tmp_path / "a.npz"))
    assert source.class_names == ["0", "1", "2", "3"]
    for split, images, labels in (
        (source.train, IMAGES, LABELS),
        (source.validation, IMAGES[:2], LABELS[:2]),
        (source.test, IMAGES[2:], LABELS[2:] + 1),
    ):
        np.testing.assert_array_equal(images_of(split), images)
        np.testing.assert_array_equal(split.labels, labels)


def test_the_names_of_keras(tmp_path):
    np.savez(
        tmp_path / "cifar.npz",
        x_train=IMAGES,
        y_train=LABELS[:, None],
        x_test=IMAGES[:1],
        y_test=LABELS[:1, None],
    )
    source = open_array(str(tmp_path / "cifar.npz"))
    np.testing.assert_array_equal(source.train.labels, LABELS)
    assert source.test.num_examples == 1
    assert source.class_names == ["0", "1", "2"]


def test_npz_without_labels(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", images=IMAGES)
    source = open_array(str(tmp_path / "a.npz"))
    assert not source.train.labeled
    assert source.class_names == []


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES / 255}, "images must be uint8 with values 0…255, got float64; convert"),
        ({"images": IMAGES[0, 0]}, r"must have shape \[N, height, width, 3\].*got \[3, 3\]"),
        ({"images": IMAGES[..., :2]}, r"got \[6, 2, 3, 2\]"),
        ({"images": IMAGES[:0]}, r"got \[0, 2, 3, 3\]"),
        ({"pictures": IMAGES}, "must hold images under one of images, train_images, x_train"),
        ({"images": IMAGES, "labels": LABELS[:3]}, r"labels must have shape \[6\]"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels must be integers"),
        ({"images": IMAGES, "test_images": IMAGES * 1.0}, "test_images must be uint8"),
        ({"images": np.array([{}], object)}, "not a file of plain arrays"),
    ],
)
def test_unusable_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        open_array(str(tmp_path / "a.npz"))


def test_unusable_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.npy does not exist"):
        open_array(str(tmp_path / "missing.npy"))
    with pytest.raises(InputError, match="must end in .npy or .npz"):
        open_array(str(tmp_path / "a.csv"))
    for name in ("text.npy", "text.npz"):
        (tmp_path / name).write_bytes(b"This is a text.")
        with pytest.raises(InputError, match="is not a file of plain arrays"):
            open_array(str(tmp_path / name))


def test_arrays_that_are_not_used_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=IMAGES, y=LABELS, x_valid=IMAGES[:2], train_images=IMAGES)
    with pytest.warns(InputWarning, match=r"left out 2 arrays \(x_train, y\)"):
        source = open_array(str(tmp_path / "a.npz"))
    assert source.validation.num_examples == 2


def test_archives_are_bounded(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((3, 999, 999, 3), np.uint8))
    monkeypatch.setattr(array, "ALWAYS_ALLOWED_BYTES", 1_000_000)
    with pytest.raises(InputError, match="must not expand to more than 1,000,000 bytes"):
        open_array(str(tmp_path / "a.npz"))


def test_labels_are_bounded(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS + 10**6)
    with pytest.raises(InputError, match="labels below 1,000,000, got 1,000,002"):
        open_array(str(tmp_path / "a.npz"))


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(InputError, match="a.npy cannot be read: it is a named pipe"):
        open_array(str(tmp_path / "a.npy"))


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "a.npy", IMAGES)
    assert open_array("~/a.npy").train.num_examples == 6
