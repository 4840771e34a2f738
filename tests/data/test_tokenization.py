import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from igpt_keras import ColorPalette, InputError
from igpt_keras.data.augmentation import augmentations, resize_area
from igpt_keras.data.file_splits import FileSplit
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.data.tokenization import read_images, tokenize
from tests.data.files import GREYS, photos


def test_evaluation_crops_to_match(palette, tmp_path):
    split, images = photos(tmp_path, 2, 60, 80)
    tokens = tokenize(split, palette.bind(16), augmentation="imagenet").tokens
    squares = np.stack([augmentations.get("imagenet").evaluate(image) for image in images])
    expected = palette.tokenize(resize_area(squares, 16, 16))
    np.testing.assert_array_equal(tokens, expected)
    assert (tokenize(split, palette.bind(16)).tokens != expected).any()


def test_tokens_are_those_of_the_shrunk_pixels_in_order(palette, tmp_path):
    split, images = photos(tmp_path, 70, 8, 12)
    tokenized = tokenize(split, palette.bind(4))
    means = images[:, :, 2:10].reshape(70, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    expected = palette.tokenize(np.rint(means).astype(np.uint8))
    assert tokenized.tokens.dtype == np.int32
    np.testing.assert_array_equal(tokenized.tokens, expected)
    np.testing.assert_array_equal(tokenized.labels, np.arange(70) % 3)


def test_images_of_any_sizes(palette, tmp_path):
    small, images = photos(tmp_path / "small", 2, 4, 4)
    large, _ = photos(tmp_path / "large", 2, 9, 7)
    mixed = FileSplit("mixed", [*small.paths, *large.paths])
    tokens = tokenize(mixed, palette.bind(4)).tokens
    np.testing.assert_array_equal(tokens[:2], palette.tokenize(images))
    np.testing.assert_array_equal(tokens[2:], tokenize(large, palette.bind(4)).tokens)


def test_read_images_gives_pixels(tmp_path):
    split, images = photos(tmp_path, 40)
    read = read_images(split, 8)
    np.testing.assert_array_equal(read.images, images)
    np.testing.assert_array_equal(read.labels, np.arange(40) % 3)
    np.testing.assert_array_equal(read_images(split, 8, limit=35).images, images[:35])
    drawn = read_images(split, 8, limit=5, seed=3)
    assert len(drawn) == 5
    chosen = [np.flatnonzero((images == image).all(axis=(1, 2, 3))) for image in drawn.images]
    assert len(np.unique(np.concatenate(chosen))) == 5
    assert (read_images(split, 8, limit=5, seed=4).images != drawn.images).any()


def test_the_tokenizer_must_have_an_image_size(tmp_path):
    split, _ = photos(tmp_path, 1)
    message = r"tokenizer must have an image size.*tokenizer.bind\(image_size\)"
    with pytest.raises(InputError, match=message):
        tokenize(split, GREYS)


class TestCache:
    def test_cached_tokens_are_the_same(self, palette, tmp_path):
        split, _ = photos(tmp_path / "photos", 40)
        plain = tokenize(split, palette.bind(4))
        for _ in range(2):
            cached = tokenize(split, palette.bind(4), cache=tmp_path / "cache")
            assert isinstance(cached.tokens, np.memmap) and cached.tokens.dtype == np.uint16
            np.testing.assert_array_equal(cached.tokens, plain.tokens)
            np.testing.assert_array_equal(cached.labels, plain.labels)
        assert len(list((tmp_path / "cache").iterdir())) == 1

    def test_it_is_read_again_until_something_changes(self, palette, tmp_path):
        split, images = photos(tmp_path / "photos", 5)
        cache = tmp_path / "cache"
        before = np.array(tokenize(split, palette.bind(8), cache=cache).tokens)
        path = pathlib.Path(split.paths[1])
        os.utime(path, ns=(0, 1))
        np.testing.assert_array_equal(tokenize(split, palette.bind(8), cache=cache).tokens, before)
        moved = shutil.move(tmp_path / "photos", tmp_path / "moved")
        split = FileSplit("moved", sorted(moved.iterdir()), split.labels)
        np.testing.assert_array_equal(tokenize(split, palette.bind(8), cache=cache).tokens, before)
        assert len(list(cache.iterdir())) == 1

        # Overwritten behind the back of the file's time.
        path = pathlib.Path(split.paths[1])
        status = path.stat()
        Image.fromarray(images[0]).save(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        changed = tokenize(split, palette.bind(8), cache=cache).tokens
        np.testing.assert_array_equal(changed[1], before[0])
        other = ColorPalette(palette.colors[::-1])
        np.testing.assert_array_equal(
            tokenize(split, other.bind(8), cache=cache).tokens,
            tokenize(split, other.bind(8)).tokens,
        )
        np.testing.assert_array_equal(
            tokenize(split, palette.bind(4), cache=cache).tokens,
            tokenize(split, palette.bind(4)).tokens,
        )

    def test_it_remembers_bad_images(self, palette, tmp_path):
        split, _ = photos(tmp_path / "photos", 5)
        pathlib.Path(split.paths[3]).write_bytes(b"text")
        for _ in range(2):
            decoder = ImageDecoder(skip_bad_images=True)
            cached = tokenize(split, palette.bind(4), decoder=decoder, cache=tmp_path / "cache")
            assert cached.tokens.shape == (4, 16)
            assert decoder.bad == {split.paths[3]: "no image"}
        (folder,) = (tmp_path / "cache").iterdir()
        assert json.loads((folder / "about.json").read_text())["bad"] == decoder.bad

    def test_a_failure_leaves_nothing(self, palette, tmp_path):
        split, _ = photos(tmp_path / "photos", 3)
        pathlib.Path(split.paths[1]).write_bytes(b"text")
        with pytest.raises(InputError, match="01.png cannot be read as an image"):
            tokenize(split, palette.bind(4), cache=tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []

    def test_it_may_be_in_the_home_folder(self, palette, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        split, _ = photos(tmp_path / "photos", 3)
        tokenize(split, palette.bind(4), cache="~/cache")
        assert len(list((tmp_path / "cache").iterdir())) == 1


def test_no_images_are_refused(tmp_path):
    split, _ = photos(tmp_path, 3)
    with pytest.raises(InputError, match="limit must be at least 1, got 0"):
        read_images(split, 8, limit=0)
