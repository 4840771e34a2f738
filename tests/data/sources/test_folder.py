import io
import os

import numpy as np
import pytest
from PIL import Image

from igpt_keras import InputError
from igpt_keras.data.sources.folder import open_folder
from igpt_keras.errors import InputWarning


def tree(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_bytes(b"")
    return str(root)


def contents(split, root):
    """Labels by path below the folder."""
    return {
        path.removeprefix(f"{root}/"): int(label)
        for path, label in zip(split.paths, split.labels, strict=True)
    }


def test_parts_with_classes(tmp_path):
    root = tree(
        tmp_path,
        *("train/dog/b.jpg", "train/dog/deep/a.PNG", "train/cat/a.jpeg", "train/cat/notes.txt"),
        *("train/cat/.hidden.jpg", "train/.hidden/a.jpg", "train/empty/notes.txt"),
        *("validation/dog/a.webp", "test/dog/1.jpg", "test/cat/1.tiff", "other/cow/a.jpg"),
    )
    source = open_folder(root, None)
    assert source.class_names == ["cat", "dog"]
    assert contents(source.train, root) == {
        "train/cat/a.jpeg": 0,
        "train/dog/b.jpg": 1,
        "train/dog/deep/a.PNG": 1,
    }
    assert contents(source.validation, root) == {"validation/dog/a.webp": 1}
    assert contents(source.test, root) == {"test/cat/1.tiff": 0, "test/dog/1.jpg": 1}
    assert source.train.labeled and source.test.labeled
    assert source.validation_fraction == 0.1


def test_another_part_to_train_on(tmp_path):
    root = tree(tmp_path, "train/cat/a.jpg", "extra/cow/a.jpg", "test/cow/b.jpg")
    source = open_folder(root, "extra")
    assert source.class_names == ["cow"]
    assert contents(source.train, root) == {"extra/cow/a.jpg": 0}
    assert contents(source.test, root) == {"test/cow/b.jpg": 0}


def test_classes_alone(tmp_path):
    root = tree(tmp_path, "cat/a.jpg", "dog/a.jpg")
    source = open_folder(root, None)
    assert source.class_names == ["cat", "dog"]
    assert (source.validation, source.test) == (None, None)
    assert contents(source.train, root) == {"cat/a.jpg": 0, "dog/a.jpg": 1}


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_images_without_classes(tmp_path, prefix):
    root = tree(tmp_path, f"{prefix}a.jpg", f"{prefix}more/b.jpg")
    source = open_folder(root, None)
    assert source.class_names == []
    assert not source.train.labeled
    assert contents(source.train, root) == {f"{prefix}a.jpg": -1, f"{prefix}more/b.jpg": -1}


def test_links_are_followed(tmp_path):
    tree(tmp_path / "elsewhere", "cat/a.jpg", "dog/a.jpg")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "elsewhere")
    assert open_folder(str(tmp_path / "data"), None).train.num_examples == 2


def test_every_real_folder_is_read_once(tmp_path):
    root = tree(tmp_path / "root", "cat/a.jpg", "dog/deep/b.jpg", "dog/c.jpg")
    tree(tmp_path / "more", "d.jpg")
    (tmp_path / "root/cat/up").symlink_to("..")
    (tmp_path / "root/dog/outside").symlink_to("../..")
    (tmp_path / "root/bird").symlink_to("cat")
    (tmp_path / "root/another").symlink_to("../more")
    (tmp_path / "more/back").symlink_to("../root")
    with pytest.warns(InputWarning, match="4 links to folders that are read anyway"):
        source = open_folder(root, None)
    assert contents(source.train, root) == {
        "another/d.jpg": 0,
        "cat/a.jpg": 1,
        "dog/c.jpg": 2,
        "dog/deep/b.jpg": 2,
    }


def test_what_is_no_regular_file_is_refused(tmp_path):
    root = tree(tmp_path, "cat/a.jpg", "dog/a.jpg")
    os.mkfifo(tmp_path / "cat/b.jpg")
    with pytest.raises(InputError, match="cat/b.jpg cannot be read: it is a named pipe"):
        open_folder(root, None)
    (tmp_path / "cat/b.jpg").unlink()
    (tmp_path / "cat/b.jpg").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="cat/b.jpg cannot be read: it is a device"):
        open_folder(root, None)


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "val", "test"), ("Training", "valid", "TESTING"), ("TRAIN", "Validation", "Test")],
)
@pytest.mark.parametrize("around", ["", "archive/data/"])
def test_usual_names_of_splits(tmp_path, train, validation, test, around):
    names = [f"{train}/cat/a.jpg", f"{train}/dog/a.jpg", f"{validation}/dog/a.jpg"]
    names = [f"{around}{name}" for name in [*names, f"{test}/cat/a.jpg"]]
    source = open_folder(tree(tmp_path, *names), None)
    assert source.class_names == ["cat", "dog"]
    splits = source.train, source.validation, source.test
    found = [list(contents(split, str(tmp_path)).items()) for split in splits]
    expected = list(zip(names, [0, 1, 1, 0], strict=True))
    assert found == [expected[:2], expected[2:3], expected[3:]]


def test_a_folder_named_images_is_no_class(tmp_path):
    names = ["train/images/a.jpg", "train/labels/a.txt", "valid/images/a.jpg"]
    with pytest.warns(InputWarning):
        source = open_folder(tree(tmp_path, *names), None)
    assert (source.class_names, source.validation.num_examples) == ([], 1)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1.jpg", "a/2.jpg", "b/1.jpg", "cover.png"], "1 image beside class folders .cover.png"),
        (["train/a/1.jpg", "train/b/1.jpg", "x/1.jpg", "x/2.jpg"], "2 images in x/ .x/1.jpg, x/2"),
        (["train/a/1.jpg", "train/b/1.jpg", "1.jpg"], "1 image beside train/ .1.jpg"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/"], "1 folder without images .val"),
        (["a/1.jpg", "b/1.jpg", "c/"], "1 folder without images .c"),
        (["a/1.jpg", "b/1.jpg", "b/Makefile"], "1 file without a suffix .b/Makefile"),
        (["a/1.jpg", "b/1.jpg", *(f"b/{i}.heic" for i in range(9))], "9 .heic files .b/.*, …"),
        (["a/1.jpg", "b/test/1.jpg"], "b/test is inside of a class, so it is trained on"),
        (["a/1.jpg", "1.jpg"], "no classes, because 1 of 2 images lie beside the folders a"),
    ],
)
def test_what_is_left_out_is_counted_and_named_once(tmp_path, names, message):
    with pytest.warns(InputWarning, match=message) as warned:
        open_folder(tree(tmp_path, *names), None)
    assert len(warned) == 1


def test_nothing_is_said_of_what_is_used_or_hidden(tmp_path, recwarn):
    names = ["train/a/1.jpg", "train/b/deep/1.png", "test/a/1.webp", ".git/x", "train/a/.DS_Store"]
    open_folder(tree(tmp_path, *names), None)
    open_folder(f"{tmp_path}/train", None)
    assert not [warning for warning in recwarn if warning.category is InputWarning]


def test_every_suffix_that_pillow_reads(tmp_path):
    Image.init()
    written = []
    for suffix, kind in Image.registered_extensions().items():
        if kind not in Image.SAVE or kind not in Image.OPEN or kind == "EPS":
            continue
        content = io.BytesIO()
        try:
            Image.new("RGB", (16, 16), "red").save(content, kind)
        except (OSError, ValueError):
            continue  # A format for other modes.
        (tmp_path / f"a{suffix}").write_bytes(content.getvalue())
        written.append(f"{tmp_path}/a{suffix}")
    assert {f"{tmp_path}/a{suffix}" for suffix in (".jfif", ".apng", ".dib", ".tga")} < {*written}
    assert open_folder(str(tmp_path), None).train.paths == sorted(written)


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tree(tmp_path, "photos/cat/a.jpg", "photos/dog/a.jpg")
    assert open_folder("~/photos", None).class_names == ["cat", "dog"]


def test_names_that_are_not_utf8(tmp_path):
    for name in (b"\xff", b"dog"):
        folder = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(folder)
        with open(folder + b"/\xfe.png", "wb") as file:
            file.write(name)
    source = open_folder(str(tmp_path), None)
    assert source.class_names == ["dog", "\\xff"]
    assert [source.train[index].image for index in range(2)] == [b"dog", b"\xff"]


def test_the_order_is_that_of_the_names(tmp_path):
    names = [f"{name}.jpg" for name in np.random.default_rng(0).permutation(30)]
    root = tree(tmp_path, *names)
    split = open_folder(root, None).train
    assert split.paths == sorted(split.paths)
    assert split.num_examples == 30


@pytest.mark.parametrize(
    ("names", "split", "message"),
    [
        (["notes.txt"], None, "holds no images"),
        (["test/cat/a.jpg"], None, "no images to train on in a folder 'train'.*images in test"),
        (["train/cat/a.jpg"], "extra", "in a folder 'extra'; it has images in train"),
        (["a.jpg"], "extra", "in a folder 'extra'; it has images in no folder"),
        (["train/cat/a.jpg", "test/cow/a.jpg"], None, "test/cow, which is no class"),
        (["train/cat/a.jpg", "test/a.jpg"], None, "no class folders in test/, but .* in train/"),
        (["train/a.jpg", "val/a.jpg", "Valid/a.jpg"], None, "one folder of validation.*Valid, val"),
        (["train/a.jpg", "test/a.jpg"], "test", "no split 'test' to train on"),
        (["a/1.heic", "b/"], None, r"holds no images; it holds 1 .heic file \(a/1.heic\)"),
    ],
)
def test_unusable_folders(tmp_path, names, split, message):
    root = tree(tmp_path, *names)
    with pytest.raises(InputError, match=message):
        open_folder(root, split)


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing is not a folder"):
        open_folder(str(tmp_path / "missing"), None)
