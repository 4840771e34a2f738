import io

import numpy as np
import pytest
from PIL import Image

from igpt_keras import InputError
from igpt_keras.data.data_set import open_data
from igpt_keras.data.image_decoding import decode
from igpt_keras.data.sources.hf import open_hf
from igpt_keras.errors import InputWarning
from tests.data.properties import check_hold_out, check_split, records

datasets = pytest.importorskip("datasets")


def png(gray):
    file = io.BytesIO()
    Image.fromarray(np.full((2, 2, 3), gray, np.uint8)).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def write(folder, splits, features=None):
    """Writes Parquet files as the Hub has them; `splits` hold grays and labels."""
    classes = datasets.ClassLabel(names=["dark", "medium", "light"])
    features = features or {"image": datasets.Image(), "label": classes}
    image, label = features
    for split, (grays, labels) in splits.items():
        rows = {image: [png(gray) for gray in grays], label: labels}
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        (folder / "data").mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


def values(split):
    read = records(split, split.in_order())
    return [(int(decode(record.image)[0, 0, 0]), record.label) for record in read]


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True, raising=False)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        datasets.disable_progress_bars()
        yield
    datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    train = (list(range(30)), [gray % 3 for gray in range(30)])
    return write(folder, {"train": train, "test": ([100, 101], [1, 2])})


def test_images_and_labels_are_those_of_the_rows(parquet):
    source = open_hf(parquet)
    assert source.class_names == ["dark", "medium", "light"]
    assert values(source.train) == [(gray, gray % 3) for gray in range(30)]
    assert values(source.test) == [(100, 1), (101, 2)]
    assert source.validation is None
    check_split(source.train)
    check_hold_out(source.train, 0.1, 3)


def test_the_command_line_s_notation(parquet):
    data = open_data(f"hf:{parquet}@split=train")
    assert data.train.num_examples == 27 and data.validation.num_examples == 3


def test_the_fingerprint_is_of_the_content(parquet, tmp_path):
    train = (list(range(30)), [gray % 3 for gray in range(30)])
    same = open_hf(write(tmp_path / "same", {"train": train}))
    relabeled = open_hf(write(tmp_path / "relabeled", {"train": (train[0], [0] * 30)}))
    others = open_hf(write(tmp_path / "others", {"train": (range(1, 31), train[1])}))
    digests = [opened.train.fingerprint() for opened in (same, relabeled, others)]
    assert digests[0] == open_hf(parquet).train.fingerprint()
    assert len(set(digests)) == 3


def test_test_images_without_labels(tmp_path):
    splits = {"train": ([1, 2], [0, 1]), "validation": ([3], [1]), "test": ([4, 5], [-1, -1])}
    with pytest.warns(InputWarning, match=r"left out 1 split without labels \(test\)"):
        source = open_hf(write(tmp_path, splits))
    assert values(source.test) == [(3, 1)] and source.validation is None


def test_columns_of_other_names_and_image_files(tmp_path):
    features = {"img": datasets.Image(), "coarse": datasets.ClassLabel(names=["a", "b"])}
    source = open_hf(write(tmp_path / "named", {"train": ([7, 8], [1, 0])}, features))
    assert source.class_names == ["a", "b"] and values(source.train) == [(7, 1), (8, 0)]
    for name in ("cat", "dog"):
        (tmp_path / "files" / "train" / name).mkdir(parents=True)
        gray = np.full((2, 2, 3), len(name) + ord(name[0]), np.uint8)
        Image.fromarray(gray).save(tmp_path / "files" / "train" / name / "1.png")
    source = open_hf(str(tmp_path / "files"))
    assert source.class_names == ["cat", "dog"]
    assert values(source.train) == [(3 + ord("c"), 0), (3 + ord("d"), 1)]


def test_what_cannot_be_opened(parquet, tmp_path):
    with pytest.raises(InputError, match="hf:nobody/nothing is not a data set that the library"):
        open_hf("nobody/nothing")
    with pytest.raises(InputError, match="has no split 'extra' to train on; it has test, train"):
        open_hf(parquet, split="extra")
    texts = datasets.Dataset.from_dict({"text": ["a"], "score": [1]})
    texts.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(InputError, match="has no images in its columns: text, score"):
        open_hf(str(tmp_path))
