import io
import os
import tarfile

import numpy as np
import pytest

from igpt_keras import InputError
from igpt_keras.data import streamed_split
from igpt_keras.data.data_set import open_data
from igpt_keras.data.image_decoding import decode
from igpt_keras.data.sources import tar
from igpt_keras.data.sources.tar import open_tar
from igpt_keras.errors import InputWarning
from tests.data.properties import check_hold_out, check_split, records
from tests.data.sources.packed import png, values, write_tar

SUFFIXES = ["tar", "tgz"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_beside_images(tmp_path, suffix):
    for shard in range(2):
        members = [("./readme.txt", b"text")]
        for index in range(4):
            key = f"sub.folder/{shard}{index}"
            number = 10 * shard + index
            members += [(f"{key}.cls", b"%d" % (index % 3)), (f"{key}.PNG", png(number))]
            members += [(f"{key}.mask.png", png(255)), (f"{key}.json", b"{}")]
        write_tar(tmp_path / f"shard-{shard}.{suffix}", members)
    source = open_tar(str(tmp_path / f"shard-*.{suffix}"), None)
    assert source.class_names == ["0", "1", "2"]
    assert (source.validation, source.test) == (None, None)
    expected = [(10 * shard + index, index % 3) for shard in range(2) for index in range(4)]
    assert values(source.train) == expected


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("root", ["", "./", "photos/"])
def test_a_packed_folder(tmp_path, suffix, root):
    members = [
        (f"{root}train/dog/1.png", png(1)),
        (f"{root}train/cat/2.png", png(2)),
        (f"{root}train/dog/3.png", png(3)),
        (f"{root}train/dog/notes.txt", b"text"),
        (f"{root}validation/cat/4.png", png(4)),
        (f"{root}test/dog/5.png", png(5)),
        (f"{root}more/dog/6.png", png(6)),
        (f"{root}more/cat/7.png", png(7)),
    ]
    path = tmp_path / f"all.{suffix}"
    write_tar(path, members)
    source = open_tar(str(path), None)
    assert source.class_names == ["cat", "dog"]
    assert values(source.train) == [(1, 1), (2, 0), (3, 1)]
    assert values(source.validation) == [(4, 0)]
    assert values(source.test) == [(5, 1)]
    folded = open_data(f"tar:{path}", train_on_validation=True)
    assert values(folded.train) == [(1, 1), (2, 0), (3, 1), (4, 0)]
    assert values(open_tar(str(path), "more").train) == [(6, 1), (7, 0)]


@pytest.mark.parametrize(("suffix", "folder"), [("tar", ""), ("tar.gz", "cat/")])
def test_epochs_and_held_out_images(tmp_path, suffix, folder):
    for shard in range(3):
        members = [(f"{folder}{shard}-{index}.png", png(index)) for index in range(9)]
        write_tar(tmp_path / f"{shard}.{suffix}", members)
    split = open_tar(str(tmp_path / f"*.{suffix}"), None).train
    assert split.labeled == bool(folder)
    check_split(split)
    check_hold_out(split, 0.1, 3)


def test_a_stream_is_shuffled_within_its_buffer(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed_split, "SHUFFLE_BUFFER_SIZE", 5)
    write_tar(tmp_path / "a.tgz", [(f"{index}.png", png(index)) for index in range(40)])
    split = open_tar(str(tmp_path / "a.tgz"), None).train
    check_split(split)
    (first,) = list(records(split, split.shuffled(0).take(1)))[:1]
    assert int(decode(first.image)[0, 0, 0]) < 5


def test_the_order_of_packed_files_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed_split, "SHUFFLE_BUFFER_SIZE", 1)
    for shard in range(4):
        members = [(f"{shard}-{index}.png", png(index)) for index in range(8)]
        write_tar(tmp_path / f"{shard}.tgz", members)
    split = open_tar(str(tmp_path / "*.tgz"), None).train
    names = [record.name for record in records(split, split.shuffled(0).take(4))]
    shards = [name.rpartition(":")[2].partition("-")[0] for name in names]
    orders = {tuple(shards[start : start + 32 : 8]) for start in range(0, 128, 32)}
    assert len(orders) > 1
    assert all(sorted(order) == list("0123") for order in orders)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_fingerprint_tells_files_and_parts(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    members = [(f"{index}.png", png(index)) for index in range(10)]
    write_tar(path, members)
    split = open_tar(str(path), None).train
    prints = [split.fingerprint(), *(half.fingerprint() for half in split.hold_out(0.5, 0))]
    assert len(set(prints)) == 3
    assert open_tar(str(path), None).train.fingerprint() == prints[0]
    write_tar(path, [*members[:9], ("9.png", png(77))])
    assert open_tar(str(path), None).train.fingerprint() != prints[0]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("notes.txt", b"text")], "holds no images"),
        ([("1.png", png(1)), ("1.cls", b"cat")], "1.cls must hold one integer, got b'cat'"),
        (
            [("1.png", png(1)), ("1.cls", b"-1")],
            ".cls file .* from 0 on .* got none for 1.png",
        ),
        (
            [("1.png", png(1)), ("2.png", png(2)), ("1.cls", b"0")],
            "a .cls file .* got none for 2.png",
        ),
        ([("1.txt", b""), ("1.cls", b"0")], "holds .cls files, but no images"),
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unusable_contents(tmp_path, suffix, members, message):
    write_tar(tmp_path / f"a.{suffix}", members)
    with pytest.raises(InputError, match=message):
        open_tar(str(tmp_path / f"a.{suffix}"), None)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"This is a text." * 100)
    with pytest.raises(InputError, match=f"a.{suffix} is not a tar file, or is damaged"):
        open_tar(str(path), None)
    noise = np.random.default_rng(0).bytes(100_000)
    write_tar(path, [("1.png", noise), ("2.png", noise)])
    path.write_bytes(path.read_bytes()[:-50_000])
    with pytest.raises(InputError, match="is not a tar file, or is damaged"):
        open_tar(str(path), None)


def test_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\*.tar matches no file"):
        open_tar(str(tmp_path / "*.tar"), None)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_named_after_splits(tmp_path, suffix):
    for index, split in enumerate(("train", "val", "test")):
        members = [(f"{key}/{index}.png", png(10 * index + n)) for n, key in enumerate("ab")]
        write_tar(tmp_path / f"web-{split}-0.{suffix}", members)
        keyed = [(f"{n}.png", png(n)) for n in range(2)] + [("0.cls", b"0"), ("1.cls", b"1")]
        write_tar(tmp_path / f"keyed-{split}-0.{suffix}", keyed)
    source = open_tar(str(tmp_path / f"web-*.{suffix}"), None)
    assert source.class_names == ["a", "b"]
    splits = source.train, source.validation, source.test
    assert [values(split) for split in splits] == [[(i, 0), (i + 1, 1)] for i in (0, 10, 20)]
    source = open_tar(str(tmp_path / f"keyed-*.{suffix}"), None)
    splits = source.train, source.validation, source.test
    assert [values(split) for split in splits] == [[(0, 0), (1, 1)]] * 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_members_that_are_left_out_are_named(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    link = tarfile.TarInfo("a/link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "1.png"
    with tarfile.open(path, "w" if suffix == "tar" else "w:gz") as file:
        for name, content in (("a/1.png", png(1)), ("b/2.png", png(2)), ("b/3.heic", b"")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
        file.addfile(link)
    message = r"1 link, device or sparse file \(a/link.png\), 1 .heic file \(b/3.heic\)"
    with pytest.warns(InputWarning, match=message):
        assert values(open_tar(str(path), None).train) == [(1, 0), (2, 1)]


def test_label_files_without_an_image_are_named(tmp_path):
    members = [("1.png", png(1)), ("1.cls", b"0"), ("1.json", b"{}"), ("2.cls", b"0")]
    write_tar(tmp_path / "a.tar", members)
    with pytest.warns(
        InputWarning, match=r"1 .json file \(1.json\), 1 label file without an image"
    ):
        open_tar(str(tmp_path / "a.tar"), None)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_of_members_of_one_name_the_last_counts(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_tar(path, [("a/1.png", png(1)), ("b/2.png", png(2)), ("a/1.png", png(3))])
    assert sorted(values(open_tar(str(path), None).train)) == [(2, 1), (3, 0)]


def test_archives_are_bounded(tmp_path, monkeypatch):
    path = tmp_path / "a.tgz"
    write_tar(path, [("1.png", bytes(5_000_000))])
    monkeypatch.setattr(tar, "ALWAYS_ALLOWED_BYTES", 1_000_000)
    with pytest.raises(InputError, match="a.tgz must not expand to more than 1,000,000 bytes"):
        open_tar(str(path), None)
    monkeypatch.setattr(tar, "MAX_IMAGE_BYTES", 1_000)
    write_tar(tmp_path / "b.tar", [("1.png", png(1)), ("2.png", bytes(1_001))])
    with pytest.warns(InputWarning, match=r"1 file of more than 1,000 bytes \(2.png\)"):
        assert open_tar(str(tmp_path / "b.tar"), None).train.num_examples == 1


def test_long_headers_are_not_read(tmp_path):
    write_tar(tmp_path / "a.tgz", [("n" * (tar.MAX_EXTENSION_BYTES + 1), png(1))])
    with pytest.raises(InputError, match="is damaged .a header of 1,048,5.. bytes"):
        open_tar(str(tmp_path / "a.tgz"), None)


def test_labels_are_bounded(tmp_path):
    for label, message in ((b"1000000", "labels below 1,000,000"), (b"7" * 99, "one integer")):
        write_tar(tmp_path / "a.tar", [("1.png", png(1)), ("1.cls", label)])
        with pytest.raises(InputError, match=message):
            open_tar(str(tmp_path / "a.tar"), None)


def test_images_with_label_files_are_in_no_folder(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.png", png(1)), ("1.cls", b"0")])
    with pytest.raises(InputError, match="labels its images by .cls files, so it has no folder"):
        open_tar(str(tmp_path / "a.tar"), "extra")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_fingerprint_is_that_of_content_and_names(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_tar(path, [(f"{index}.png", png(index)) for index in range(3)])
    before = open_tar(str(path), None).train.fingerprint()
    os.utime(path, ns=(0, 1))
    moved = path.rename(tmp_path / f"b.{suffix}")
    assert open_tar(str(moved), None).train.fingerprint() == before
    write_tar(moved, [(f"{index}.png", png(index)) for index in (0, 1, 3)])
    assert open_tar(str(moved), None).train.fingerprint() != before


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(InputError, match="a.tar cannot be read: it is a named pipe"):
        open_tar(str(tmp_path / "*.tar"), None)


def test_a_name_may_look_like_a_pattern(tmp_path):
    write_tar(tmp_path / "a[1].tar", [("1.png", png(1))])
    assert open_tar(str(tmp_path / "a[1].tar"), None).train.num_examples == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_are_not_utf8(tmp_path, suffix):
    members = [("a/\udcff.png", png(1)), ("\udcfe/2.png", png(2))]
    write_tar(tmp_path / f"a.{suffix}", members)
    source = open_tar(str(tmp_path / f"a.{suffix}"), None)
    assert source.class_names == ["a", "\\xfe"]
    assert values(source.train) == [(1, 0), (2, 1)]
    source.train.fingerprint()
