import itertools
import os
import shutil
import socket

import numpy as np
import pytest

from igpt_keras import InputError
from igpt_keras.data.file_splits import FileSplit
from igpt_keras.data.files import MAX_IMAGE_BYTES, UnreadableFile
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.data.splits import ArraySplit, SubsetSplit
from igpt_keras.data.tokenization import read_images
from tests.data.files import photos
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
    ]
    assert len(set(prints)) == len(prints)
    assert array_split(4, [0, 1, 2, 3]).fingerprint() == prints[1]


def test_the_fingerprint_of_files_is_that_of_content_and_names(tmp_path):
    split = file_split(tmp_path / "a", 4)
    before = split.fingerprint()
    os.utime(split.paths[3], ns=(0, 1))
    assert split.fingerprint() == before
    assert file_split(tmp_path / "b", 4).fingerprint() == before
    shutil.move(tmp_path / "a", tmp_path / "far" / "away")
    moved = sorted((tmp_path / "far" / "away").iterdir())
    assert FileSplit("moved", moved, split.labels).fingerprint() == before
    assert FileSplit("turned", moved[::-1], split.labels[::-1]).fingerprint() != before
    renamed = moved[0].rename(moved[0].with_name("00.png"))
    assert FileSplit("renamed", [renamed, *moved[1:]], split.labels).fingerprint() != before


def test_the_folder_of_a_split_says_where_names_begin(tmp_path):
    split = file_split(tmp_path / "cat", 2)
    inner, outer = (
        FileSplit("files", split.paths, folder=folder).fingerprint()
        for folder in (tmp_path / "cat", tmp_path)
    )
    assert FileSplit("files", split.paths).fingerprint() == inner != outer


@pytest.mark.parametrize("size", [1, 100_000, 3_000_000])
def test_content_counts_behind_the_back_of_size_and_time(tmp_path, size):
    path = tmp_path / "a.png"
    content = np.random.default_rng(0).bytes(size)
    path.write_bytes(content)
    split, status = FileSplit("files", [path]), path.stat()
    before = split.fingerprint()
    # Large files are compared by blocks; the last byte is in one of them.
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert split.fingerprint() != before


def test_files_that_are_not_regular_are_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)  # A socket's path is short.
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
    for name, kind in (("pipe", "a named pipe"), ("zero", "a device"), ("socket", "a socket")):
        split = FileSplit("files", [tmp_path / f"{name}.png"])
        for read in (lambda split=split: split[0], split.fingerprint):
            with pytest.raises(UnreadableFile, match=f"{name}.png .*it is {kind}, not a regular"):
                read()


def test_large_files_are_bad_images(tmp_path):
    split, _ = photos(tmp_path, 3)
    with open(split.paths[1], "r+b") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    with pytest.raises(InputError, match="01.png cannot be read as an image .*268,435,457 bytes"):
        read_images(split, 8)
    decoder = ImageDecoder(skip_bad_images=True)
    assert len(read_images(split, 8, decoder=decoder)) == 2
    assert list(decoder.bad) == [split.paths[1]]


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    split = file_split(tmp_path, 2)
    assert FileSplit("home", ["~/1.png"])[0].image == split[1].image


def test_names_that_are_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.png"
    with open(path, "wb") as file:
        file.write(b"content")
    split = FileSplit("bytes", [os.fsdecode(path)])
    assert split[0].name == f"{tmp_path}/\\xff.png"
    split.fingerprint()


@pytest.mark.parametrize(
    "make",
    [
        lambda: FileSplit("empty", []),
        lambda: ArraySplit("empty", np.zeros((0, 2, 2, 3), np.uint8)),
        lambda: SubsetSplit("empty", array_split(2), np.array([], np.int64)),
    ],
)
def test_empty_splits_are_refused(make):
    with pytest.raises(InputError, match="empty must have at least one image, got none"):
        make()


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
