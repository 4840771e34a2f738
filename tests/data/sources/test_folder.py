import numpy as np
import pytest

from igpt_keras import InputError
from igpt_keras.data.sources.folder import open_folder


def tree(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
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
        (["train/cat/a.jpg", "test/a.jpg"], None, "test/, which is no class"),
    ],
)
def test_unusable_folders(tmp_path, names, split, message):
    root = tree(tmp_path, *names)
    with pytest.raises(InputError, match=message):
        open_folder(root, split)


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing is not a folder"):
        open_folder(str(tmp_path / "missing"), None)
