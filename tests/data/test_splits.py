import itertools
import os

import numpy as np
import pytest

from igpt_keras import InputError
from igpt_keras.data.splits import ArraySplit, FileSplit
from tests.data.properties import check_hold_out, check_split, first_names, records


def array_split(count, labels=None, value=0):
    images = np.full((count, 2, 3, 3), value, np.uint8) + np.arange(count)[:, None, None, None]
    return ArraySplit("array", images.astype(np.uint8), labels)


def file_split(folder, count):
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{index}.png" for index in range(count)]
    for index, path in enumerate(paths):
        path.write_bytes(b"content %d" % index)
    return FileSplit("files", paths, np.arange(count) % 3)


@pytest.mark.parametrize("count", [7, 45])
def test_a_part_shuffles_anew_each_epoch_and_starts_anywhere(count):
    check_split(array_split(count))


def test_every_order_occurs():
    split = array_split(3)
    names = first_names(split, 3 * 200, seed=0)
    orders = {tuple(names[i : i + 3]) for i in range(0, 600, 3)}
    assert orders == set(itertools.permutations(names[:3]))


def test_one_image_is_its_own_epoch():
    assert first_names(array_split(1), 3, seed=0) == ["array #0"] * 3


def test_files_are_read_with_their_labels(tmp_path):
    split = file_split(tmp_path, 5)
    read = list(records(split, split.in_order()))
    assert [record.image for record in read] == [b"content %d" % i for i in range(5)]
    assert [record.label for record in read] == [0, 1, 2, 0, 1]
    assert read[2].name == str(tmp_path / "2.png")
    assert FileSplit("unlabeled", split.paths)[0].label == -1


def test_gray_arrays_get_three_channels():
    images = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1)
    image = ArraySplit("gray", images)[1].image
    np.testing.assert_array_equal(image, np.repeat(images[1], 3, axis=-1))


@pytest.mark.parametrize(
    ("count", "fraction", "held_out"), [(50, 0.1, 5), (57, 0.04, 2), (9, 0.04, 1), (12, 0.5, 6)]
)
def test_hold_out_divides_exactly(count, fraction, held_out):
    check_hold_out(array_split(count, np.arange(count) % 4), fraction, held_out)


def test_the_seed_decides_what_is_held_out():
    split = array_split(50)
    first, other = (
        {record.name for record in records(held, held.in_order())}
        for held in (split.hold_out(0.1, seed)[1] for seed in (0, 1))
    )
    assert first != other


def test_one_image_cannot_be_divided():
    with pytest.raises(InputError, match="array must have at least 2 images.*, got 1"):
        array_split(1).hold_out(0.1, 0)


def test_joined_parts_follow_each_other(tmp_path):
    first, second = array_split(4, [0, 1, 2, 3]), file_split(tmp_path, 3)
    joined = first.joined(second)
    check_split(joined)
    assert joined.labeled
    assert not array_split(4).joined(second).labeled
    read = list(records(joined, joined.in_order()))
    assert [record.label for record in read] == [0, 1, 2, 3, 0, 1, 2]
    assert read[4].image == b"content 0"


def test_the_fingerprint_tells_contents_labels_and_order(tmp_path):
    prints = [
        array_split(4).fingerprint(),
        array_split(4, [0, 1, 2, 3]).fingerprint(),
        array_split(4, [0, 1, 3, 2]).fingerprint(),
        array_split(4, value=1).fingerprint(),
        array_split(5).fingerprint(),
        array_split(4).hold_out(0.5, 0)[0].fingerprint(),
        array_split(4).hold_out(0.5, 0)[1].fingerprint(),
        array_split(4).joined(array_split(1)).fingerprint(),
        file_split(tmp_path, 4).fingerprint(),
        file_split(tmp_path / "other", 4).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    assert array_split(4, [0, 1, 2, 3]).fingerprint() == prints[1]
    split = file_split(tmp_path, 4)
    unchanged = split.fingerprint()
    assert split.fingerprint() == unchanged
    os.utime(tmp_path / "3.png", ns=(0, 1))
    assert split.fingerprint() != unchanged


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"labels must have shape \[3\]"),
        ([0.0, 1.0, 2.0], "labels must be integers from 0 on, got float64"),
        ([0, -1, 2], "labels must be integers from 0 on"),
    ],
)
def test_unusable_labels(labels, message):
    with pytest.raises(InputError, match=message):
        array_split(3, labels)
