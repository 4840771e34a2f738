import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from igpt_keras import ColorPalette, InputError, RGBTokenizer
from igpt_keras.data.data_set import open_data
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.data.token_files import TokensManifest, stored_dtype
from igpt_keras.data.tokenization import read_images, tokenize
from igpt_keras.pipelines.tokens import write_tokens
from igpt_keras.runs.options import DataOptions
from igpt_keras.runs.tokenizers import fit_palette
from tests.pipelines.serial import SerialRunner

COLORS = ColorPalette(np.random.default_rng(1).uniform(-1, 1, (300, 3)))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of two classes: 80 images to train, of which 8 are held out, and 6 to test."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 3)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (6, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index:02d}.png")
    return f"folder:{folder}"


def write(photos, output, **settings):
    settings = {"tokenizer": COLORS.bind(4), "images_per_shard": 32, **settings}
    return write_tokens(photos, output, **{"runner": SerialRunner(), **settings})


@pytest.fixture(scope="module")
def written(photos, tmp_path_factory):
    """The photos' tokens, and their manifest."""
    folder = tmp_path_factory.mktemp("written") / "tokens"
    return folder, write(photos, folder)


@pytest.fixture
def copied(written, tmp_path):
    """A copy of the photos' tokens, and their manifest."""
    shutil.copytree(written[0], tmp_path / "tokens")
    return tmp_path / "tokens", written[1]


def shard_files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tfrecord"))}


def test_tokens_are_those_of_one_process_whatever_the_shards(photos, written, tmp_path):
    data = open_data(photos)
    one, other = written[0], tmp_path / "tokens"
    for folder, manifest in ((one, written[1]), (other, write(photos, other, images_per_shard=64))):
        assert manifest.num_examples == {"train": 72, "validation": 8, "test": 6}
        assert (manifest.dtype, manifest.class_names) == ("uint16", ["cat", "dog"])
        read = open_data(f"tokens:{folder}")
        for name in ("train", "validation"):
            expected = tokenize(getattr(data, name), COLORS.bind(4))
            tokens = tokenize(getattr(read, name), COLORS.bind(4))
            np.testing.assert_array_equal(tokens.tokens, expected.tokens)
            np.testing.assert_array_equal(tokens.labels, expected.labels)
    assert len(list(one.glob("train*.tfrecord"))) == 3
    assert len(list(other.glob("train*.tfrecord"))) == 2


def test_records_can_be_read_without_the_package(photos, written):
    expected = tokenize(open_data(photos).test, COLORS.bind(4))
    records = tf.data.TFRecordDataset(str(written[0] / "test-00000-of-00001.tfrecord"))
    content = list(records.as_numpy_iterator())
    features = [tf.train.Example.FromString(record).features.feature for record in content]
    tokens = [np.frombuffer(each["tokens"].bytes_list.value[0], "<u2") for each in features]
    np.testing.assert_array_equal(tokens, expected.tokens)
    assert [each["label"].int64_list.value[0] for each in features] == [0, 0, 0, 1, 1, 1]
    assert features[4]["id"].bytes_list.value[0] == b"test/dog/01.png"


def test_tokens_take_as_few_bytes_as_they_need(photos, tmp_path):
    folder = tmp_path / "tokens"
    assert write(photos, folder, tokenizer=RGBTokenizer(4)).dtype == "uint8"
    records = tf.data.TFRecordDataset(str(folder / "test-00000-of-00001.tfrecord"))
    example = tf.train.Example.FromString(next(records.as_numpy_iterator()))
    assert len(example.features.feature["tokens"].bytes_list.value[0]) == 4 * 12
    assert [stored_dtype(size) for size in (256, 257, 65536, 65537)] == [
        *("uint8", "uint16", "uint16", "int32")
    ]


def test_a_palette_is_fitted_as_by_its_command(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("igpt_keras.pipelines.palettes.IMAGES_PER_SHARD", 20)
    fitted = {"tokenizer": None, "image_size": 4, "num_colors": 6, "seed": 3}
    write(photos, tmp_path / "tokens", **fitted)
    palette = open_data(f"tokens:{tmp_path / 'tokens'}").train.tokenizer
    expected = fit_palette(DataOptions.of(photos), 4, 6, 3)
    np.testing.assert_array_equal(palette.colors, expected.colors)
    assert palette.image_size == 4
    assert not (tmp_path / "tokens" / "sample").exists()


def test_a_source_may_have_an_augmentation_of_its_own(photos, tmp_path):
    manifest = write(f"{photos}@augmentation=imagenet", tmp_path / "tokens")
    assert manifest.augmentation == "imagenet"
    expected = tokenize(open_data(photos).test, COLORS.bind(4), augmentation="imagenet")
    read = tokenize(open_data(f"tokens:{tmp_path / 'tokens'}").test, COLORS.bind(4))
    np.testing.assert_array_equal(read.tokens, expected.tokens)


def test_shards_that_are_done_stay_when_the_work_goes_on(photos, written, tmp_path):
    whole, expected = written
    folder = tmp_path / "tokens"
    with pytest.raises(KeyboardInterrupt):
        write(photos, folder, runner=SerialRunner(2))
    assert len(shard_files(folder)) == 2
    with pytest.raises(FileNotFoundError, match="not a folder of tokens"):
        open_data(f"tokens:{folder}")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")}
    assert write(photos, folder) == expected
    assert shard_files(folder) == shard_files(whole)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("harm", ["remove", "truncate", "alter", "forget", "another plan"])
def test_a_damaged_shard_is_made_again(photos, copied, harm):
    folder, expected = copied
    before = shard_files(folder)
    path = folder / "train-00001-of-00003.tfrecord"
    os.utime(path, ns=(0, 0))
    content = path.read_bytes()
    if harm == "remove":
        path.unlink()
    elif harm == "truncate":
        path.write_bytes(content[:-7])
    elif harm == "alter":
        path.write_bytes(content[:-7] + b"altered")
    elif harm == "forget":
        path.with_suffix(".json").unlink()
    else:
        report = json.loads(path.with_suffix(".json").read_text())
        path.with_suffix(".json").write_text(json.dumps({**report, "plan": "another"}))
    if harm in ("remove", "truncate"):
        wrong = {"remove": "is missing", "truncate": "must have .* bytes, got"}[harm]
        with pytest.raises((InputError, FileNotFoundError), match=f"{path.name} {wrong}"):
            open_data(f"tokens:{folder}")
    others = {p: p.stat().st_mtime_ns for p in folder.glob("*.tfrecord") if p != path}
    assert write(photos, folder) == expected
    assert shard_files(folder) == before
    assert {p: p.stat().st_mtime_ns for p in others} == others
    assert path.stat().st_mtime_ns > 0


def test_a_folder_of_other_tokens_is_replaced_on_request_only(photos, copied, tmp_path):
    folder, _ = copied
    with pytest.raises(InputError, match="began with images_per_shard=32, got 64"):
        write(photos, folder, images_per_shard=64)
    write(photos, folder, images_per_shard=64, overwrite=True)
    names = {path.name for path in folder.glob("train*.tfrecord")}
    assert names == {f"train-{index:05d}-of-00002.tfrecord" for index in range(2)}
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="folder of other things"):
        write(photos, tmp_path / "others", overwrite=True)


def test_bad_images_are_an_error_or_counted_and_listed(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(40):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(folder / f"{index:02d}.png")
    (folder / "05.png").write_bytes(b"no image")
    source, output = f"folder:{folder}", tmp_path / "tokens"
    with pytest.raises(InputError, match=r"05\.png cannot be read as an image"):
        write(source, output)
    assert json.loads((output / "train-00000-of-00002.failed.json").read_text())["error"]
    skipping = DataOptions(source, decoder=ImageDecoder(skip_bad_images=True))
    manifest = write(skipping, output)
    assert manifest.num_examples == {"train": 35, "validation": 4}
    assert not list(output.glob("*.failed.json"))
    assert list(manifest.bad_images) == [str(folder / "05.png")]
    expected = tokenize(open_data(source).train, COLORS.bind(4), decoder=ImageDecoder(True))
    read = tokenize(open_data(f"tokens:{output}").train, COLORS.bind(4))
    np.testing.assert_array_equal(read.tokens, expected.tokens)


def test_what_cannot_be_tokenized(photos, tmp_path):
    for images_per_shard in (0, 48):
        with pytest.raises(InputError, match="images_per_shard must be a multiple of 32"):
            write(photos, tmp_path / "tokens", images_per_shard=images_per_shard)
    with pytest.raises(InputError, match="data must be one source"):
        write(DataOptions((photos, "digits")), tmp_path / "tokens")
    assert not os.listdir(tmp_path)


def test_other_file_systems(photos):
    """TensorFlow's file system in memory stands for those of object stores."""
    manifest = write(photos, "ram://bucket/tokens/")
    assert TokensManifest.read("ram://bucket/tokens") == manifest
    read = open_data("tokens:ram://bucket/tokens")
    expected = tokenize(open_data(photos).train, COLORS.bind(4))
    tokens = tokenize(read.train, COLORS.bind(4))
    np.testing.assert_array_equal(tokens.tokens, expected.tokens)
    assert write(photos, "ram://bucket/tokens") == manifest


def test_the_images_of_tokens_are_what_they_stand_for(written):
    split = open_data(f"tokens:{written[0]}").test
    expected = COLORS.detokenize(tokenize(split, COLORS.bind(4)).tokens)
    np.testing.assert_array_equal(read_images(split, 4).images, expected)
