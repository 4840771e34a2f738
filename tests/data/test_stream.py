import itertools
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import ColorPalette, InputError
from igpt_keras.data.data_set import WeightedSource
from igpt_keras.data.file_splits import FileSplit
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.data.splits import ArraySplit
from igpt_keras.data.stream import TrainingStream
from igpt_keras.data.tokenization import read_images, tokenize
from tests.data.files import GREYS, photos


def numbered(count, first=0):
    """Images of one pixel whose gray is their number; the label is twice the number."""
    images = np.full((count, 1, 1, 3), first, np.uint8) + np.arange(count)[:, None, None, None]
    numbers = np.arange(first, first + count)
    return ArraySplit("numbered", images.astype(np.uint8), 2 * numbers)


def textured(count, seed=0):
    """Random pixels, so that crops differ; labels count from 100 · `seed` on."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    return ArraySplit("textured", images, 100 * seed + np.arange(count))


def stream(*splits, image_size=1, batch_size=4, weights=None, palette=GREYS, **settings):
    weights = weights or [split.num_examples for split in splits]
    sources = [WeightedSource(p, w, None) for p, w in zip(splits, weights, strict=True)]
    return TrainingStream(sources, palette.bind(image_size), batch_size, **settings)


def batches(dataset, count):
    return [
        tuple(map(np.asarray, batch)) if isinstance(batch, tuple) else np.asarray(batch)
        for batch in itertools.islice(dataset, count)
    ]


def numbers(stream, count):
    """The first `count` numbers of a stream of `numbered` images."""
    return np.concatenate(batches(stream.dataset(), -(-count // stream.batch_size)))[:count, 0]


@pytest.fixture
def palette():
    return ColorPalette(np.random.default_rng(31).uniform(-1, 1, (40, 3)))


class TestTrainingStream:
    def test_batches_have_a_fixed_shape(self):
        spec = stream(numbered(10), image_size=3, labels=True).dataset(num_workers=2).element_spec
        assert spec == (tf.TensorSpec([2, 9], tf.int32), tf.TensorSpec([2], tf.int32))
        assert stream(numbered(10)).dataset().element_spec == tf.TensorSpec([4, 1], tf.int32)

    def test_every_epoch_has_all_images_in_another_order(self):
        seen = numbers(stream(numbered(45)), 135).reshape(3, 45)
        np.testing.assert_array_equal(np.sort(seen), np.tile(np.arange(45), (3, 1)))
        assert (seen[0] != seen[1]).any() and (seen[1] != seen[2]).any()

    def test_the_seed_alone_decides(self):
        tf.random.set_seed(1)
        first = numbers(stream(numbered(45), seed=7), 90)
        tf.random.set_seed(2)
        np.testing.assert_array_equal(numbers(stream(numbered(45), seed=7), 90), first)
        assert (numbers(stream(numbered(45), seed=8), 90) != first).any()

    def test_labels_follow_images(self):
        for tokens, labels in batches(stream(numbered(45), labels=True).dataset(), 20):
            np.testing.assert_array_equal(labels, 2 * tokens[:, 0])

    @pytest.mark.parametrize("splits", [1, 2])
    @pytest.mark.parametrize("start_step", [1, 30])
    def test_a_later_start_goes_on_as_if_from_the_beginning(self, splits, start_step):
        mixed = [textured(45), textured(30, seed=1)][:splits]
        several = stream(*mixed, augmentation="cifar", labels=True, image_size=8)
        expected = batches(several.dataset(), start_step + 4)[start_step:]
        started = batches(several.dataset(start_step), 4)
        for (tokens, labels), (other_tokens, other_labels) in zip(expected, started, strict=True):
            np.testing.assert_array_equal(labels, other_labels)
            np.testing.assert_array_equal(tokens, other_tokens)

    @pytest.mark.parametrize("splits", [1, 2])
    @pytest.mark.parametrize("num_workers", [2, 4])
    def test_workers_share_the_batches(self, splits, num_workers):
        mixed = [textured(45), textured(30, seed=1)][:splits]
        whole = stream(*mixed, batch_size=8, augmentation="cifar", image_size=8)
        shares = [
            batches(whole.dataset(start_step=3, worker=worker, num_workers=num_workers), 12)
            for worker in range(num_workers)
        ]
        expected = batches(whole.dataset(start_step=3), 12)
        np.testing.assert_array_equal(np.stack(shares, axis=2).reshape(12, 8, 64), expected)

    def test_masks_come_with_the_tokens(self):
        split = textured(45)
        settings = {"batch_size": 8, "image_size": 8, "labels": True, "seed": 4}
        plain = batches(stream(split, **settings).dataset(2), 30)
        masked = stream(split, mask_probability=0.15, **settings)
        drawn = [
            (np.asarray(inputs["tokens"]), np.asarray(inputs["masked"]), np.asarray(labels))
            for inputs, labels in itertools.islice(masked.dataset(2), 30)
        ]
        for (tokens, labels), (same_tokens, _, same_labels) in zip(plain, drawn, strict=True):
            np.testing.assert_array_equal(same_tokens, tokens)
            np.testing.assert_array_equal(same_labels, labels)
        masks = np.stack([of_batch for _, of_batch, _ in drawn])
        assert masks.shape == (30, 8, 64) and masks.dtype == bool
        # Five standard deviations.
        assert abs(masks.mean() - 0.15) < 5 * np.sqrt(0.15 * 0.85 / masks.size)
        assert len({mask.tobytes() for mask in masks.reshape(240, 64)}) == 240
        # Independent positions: neighbors are both masked as often as chance has it.
        both = (masks[..., 1:] & masks[..., :-1]).mean()
        assert abs(both - 0.15**2) < 0.005

    def test_dropped_labels_come_with_the_tokens_by_seed_and_step(self):
        def taken(start_step=0, seed=4, **where):
            settings = {"batch_size": 8, "image_size": 8, "seed": seed, "label_dropout": 0.5}
            batches = stream(textured(45), **settings).dataset(start_step, **where)
            return [
                [np.asarray(inputs[name]) for name in ("tokens", "labels", "dropped")]
                for inputs in itertools.islice(batches, 30 - start_step)
            ]

        whole, later = taken(), taken(start_step=2)
        labeled = stream(textured(45), batch_size=8, image_size=8, seed=4, labels=True).dataset()
        for batch, given in zip(whole, itertools.islice(labeled, 30), strict=True):
            for values, expected in zip(batch[:2], given, strict=True):
                np.testing.assert_array_equal(values, expected)
        dropped = np.stack([batch[2] for batch in whole])
        assert abs(dropped.mean() - 0.5) < 5 * np.sqrt(0.25 / dropped.size)
        assert len({batch.tobytes() for batch in dropped}) > 20
        np.testing.assert_array_equal(np.stack([batch[2] for batch in later]), dropped[2:])
        shares = [np.stack([b[2] for b in taken(worker=w, num_workers=2)]) for w in (0, 1)]
        np.testing.assert_array_equal(np.stack(shares, axis=2).reshape(30, 8), dropped)
        assert (np.stack([batch[2] for batch in taken(seed=5)]) != dropped).any()

    def test_masks_depend_on_seed_and_step_alone(self):
        def masks(seed=4, **where):
            of_stream = stream(
                textured(45), batch_size=8, image_size=8, seed=seed, mask_probability=0.5
            )
            taken = itertools.islice(of_stream.dataset(**where), 4)
            return np.stack([np.asarray(batch["masked"]) for batch in taken])

        np.testing.assert_array_equal(masks(start_step=3)[0], masks()[3])
        shares = [masks(worker=worker, num_workers=2) for worker in range(2)]
        np.testing.assert_array_equal(np.stack(shares, axis=2).reshape(4, 8, 64), masks())
        assert (masks(seed=5) != masks()).any()

    def test_steps_per_epoch(self):
        assert stream(numbered(45), batch_size=8).steps_per_epoch == 6
        assert stream(numbered(40), numbered(9), batch_size=7).steps_per_epoch == 7

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
            ({"augmentation": "mnist"}, "augmentation must be one of"),
            ({"augmentation": "cifar", "cache": "tokens"}, "cache keeps images without augm"),
        ],
    )
    def test_unusable_settings(self, settings, message):
        with pytest.raises(InputError, match=message):
            stream(numbered(4), **settings).dataset()

    def test_the_tokenizer_must_have_an_image_size(self):
        sources = [WeightedSource(numbered(5), 1, None)]
        with pytest.raises(InputError, match="tokenizer must have an image size"):
            TrainingStream(sources, GREYS, batch_size=2)

    def test_without_a_tokenizer_batches_are_the_images_that_tokens_are_of(self, palette, tmp_path):
        split, _ = photos(tmp_path, 9, 32, 32)
        sources = [WeightedSource(split, 1, "cifar"), WeightedSource(textured(7), 2, None)]
        settings = {"batch_size": 6, "seed": 5, "labels": True}
        of_images = TrainingStream(sources, None, image_size=32, **settings)
        of_tokens = TrainingStream(sources, palette.bind(32), **settings)
        where = {"start_step": 2, "worker": 1, "num_workers": 3}
        pairs = batches(of_images.dataset(**where), 3), batches(of_tokens.dataset(**where), 3)
        for (images, labels), (tokens, same_labels) in zip(*pairs, strict=True):
            assert images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3)
            np.testing.assert_array_equal(palette.bind(32).tokenize(images), tokens)
            np.testing.assert_array_equal(labels, same_labels)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "give either a tokenizer or image_size, got tokenizer=None and image_size=None"),
            ({"image_size": 8, "cache": "tokens"}, "cache, mask_probability and label"),
            ({"image_size": 8, "mask_probability": 0.1}, "cache, mask_probability and label"),
        ],
    )
    def test_unusable_settings_without_a_tokenizer(self, settings, message):
        with pytest.raises(InputError, match=message):
            TrainingStream([WeightedSource(numbered(5), 1, None)], None, 2, **settings)

    def test_tokens_from_a_cache_are_the_same(self, palette, tmp_path):
        split, _ = photos(tmp_path / "photos", 40)
        settings = {"palette": palette, "image_size": 4, "labels": True}
        streamed = batches(stream(split, **settings).dataset(), 12)
        from_cache = batches(stream(split, cache=tmp_path / "cache", **settings).dataset(), 12)
        for (tokens, labels), (other_tokens, other_labels) in zip(
            streamed, from_cache, strict=True
        ):
            np.testing.assert_array_equal(tokens, other_tokens)
            np.testing.assert_array_equal(labels, other_labels)
        assert len(list((tmp_path / "cache").iterdir())) == 1

    def test_workers_divide_the_batch(self):
        with pytest.raises(InputError, match="num_workers must divide batch_size=4, got 3"):
            stream(numbered(4)).dataset(num_workers=3)


class TestMixture:
    def test_weights_are_kept(self):
        splits = numbered(100), numbered(20, first=100), numbered(50, first=200)
        seen = numbers(stream(*splits, weights=[1, 3, 6]), 3000)
        shares = np.bincount(seen // 100) / 3000
        expected = np.array([0.1, 0.3, 0.6])
        # Five standard deviations.
        assert (np.abs(shares - expected) < 5 * np.sqrt(expected * (1 - expected) / 3000)).all()

    def test_without_weights_every_image_counts_alike(self):
        seen = numbers(stream(numbered(30), numbered(90, first=100)), 2000)
        assert abs((seen < 100).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 2000)

    def test_each_source_goes_through_its_own_epochs(self):
        seen = numbers(stream(numbered(30), numbered(20, first=100), weights=[1, 1]), 300)
        for first, count in ((0, 30), (100, 20)):
            own = seen[seen // 100 == first // 100]
            epochs = own[: len(own) // count * count].reshape(-1, count)
            assert len(epochs) >= 3
            expected = np.tile(np.arange(first, first + count), (len(epochs), 1))
            np.testing.assert_array_equal(np.sort(epochs), expected)
            assert (epochs[0] != epochs[1]).any()

    def test_each_source_has_its_own_augmentation(self, palette, tmp_path):
        plain, images = photos(tmp_path / "plain", 3, 32, 32)
        augmented, _ = photos(tmp_path / "augmented", 3, 32, 32, seed=1)
        sources = [WeightedSource(plain, 1, "none"), WeightedSource(augmented, 1, None)]
        mixed = TrainingStream(sources, palette.bind(32), 8, augmentation="cifar")
        seen = {row.tobytes() for batch in batches(mixed.dataset(), 6) for row in batch}
        unaugmented = {row.tobytes() for row in palette.tokenize(images)}
        assert unaugmented < seen
        # Those of the other source are all different.
        assert len(seen) > 15


class TestAugmentation:
    def test_it_differs_by_image_and_epoch_and_follows_the_seed(self, palette, tmp_path):
        split, images = photos(tmp_path, 2, 32, 32)
        settings = {"augmentation": "cifar", "palette": palette, "image_size": 32}
        one = FileSplit("one", split.paths[:1])
        seen = np.concatenate(batches(stream(one, **settings).dataset(), 5))
        assert len({row.tobytes() for row in seen}) > 15
        again = np.concatenate(batches(stream(one, **settings).dataset(), 5))
        np.testing.assert_array_equal(again, seen)
        other = np.concatenate(batches(stream(one, seed=1, **settings).dataset(), 5))
        assert (other != seen).any()
        padded = np.pad(images[0], [(4, 4), (4, 4), (0, 0)], mode="reflect")
        possible = set()
        for top, left in itertools.product(range(9), range(9)):
            crop = padded[top : top + 32, left : left + 32]
            for image in (crop, crop[:, ::-1]):
                possible.add(palette.tokenize(image).tobytes())
        assert {row.tobytes() for row in seen} <= possible


class TestBadImages:
    @pytest.fixture
    def split(self, tmp_path):
        split, _ = photos(tmp_path, 10)
        pathlib.Path(split.paths[4]).write_bytes(b"text")
        pathlib.Path(split.paths[7]).write_bytes(b"")
        return split

    def test_they_end_the_run_by_name(self, split):
        with pytest.raises(InputError, match="04.png cannot be read as an image .no image"):
            tokenize(split, GREYS.bind(4))
        several = stream(split, image_size=4)
        with pytest.raises(InputError, match="0[47].png cannot be read as an image"):
            with several.decoder.restore_errors():
                batches(several.dataset(), 5)

    def test_or_they_are_skipped_and_counted(self, split):
        decoder = ImageDecoder(skip_bad_images=True)
        tokenized = tokenize(split, GREYS.bind(4), decoder=decoder)
        assert {pathlib.Path(name).name: why for name, why in decoder.bad.items()} == {
            "04.png": "no image",
            "07.png": "empty",
        }
        np.testing.assert_array_equal(tokenized.labels, np.delete(np.arange(10) % 3, [4, 7]))
        good = FileSplit("good", [split.paths[index] for index in (0, 1, 2, 3, 5, 6, 8, 9)])
        np.testing.assert_array_equal(tokenized.tokens, tokenize(good, GREYS.bind(4)).tokens)

        several = stream(split, image_size=4, decoder=ImageDecoder(skip_bad_images=True))
        epoch = np.concatenate(batches(several.dataset(), 4))
        assert {row.tobytes() for row in epoch[:8]} == {row.tobytes() for row in tokenized.tokens}
        assert several.decoder.bad == decoder.bad

    def test_bad_images_alone_end_the_stream(self, split):
        bad = FileSplit("all bad", [split.paths[4], split.paths[7]])
        decoder = ImageDecoder(skip_bad_images=True)
        with pytest.raises(InputError, match="all bad holds no image that can be read"):
            tokenize(bad, GREYS.bind(4), decoder=decoder)
        for splits in ([bad], [split, bad]):
            several = stream(*splits, image_size=4, decoder=decoder, weights=[1] * len(splits))
            with pytest.raises(InputError, match="all bad holds no image that can be read"):
                with decoder.restore_errors():
                    batches(several.dataset(), 50)

    def test_chunks_of_bad_images_alone_are_passed_over(self, split, tmp_path):
        good, images = photos(tmp_path / "good", 2)
        bad = [tmp_path / f"{index}.jpg" for index in range(70)]
        for path in bad:
            path.write_bytes(b"text")
        decoder = ImageDecoder(skip_bad_images=True)
        mixed = FileSplit("mixed", [*bad, *good.paths])
        np.testing.assert_array_equal(read_images(mixed, 8, decoder=decoder).images, images)
        assert len(tokenize(mixed, GREYS.bind(4), decoder=decoder)) == 2
        assert len(decoder.bad) == 70
        with pytest.raises(InputError, match="mixed holds no image that can be read"):
            read_images(mixed, 8, decoder=decoder, limit=40)

    def test_missing_files_are_no_bad_images(self, split):
        pathlib.Path(split.paths[2]).unlink()
        with pytest.raises(FileNotFoundError, match="02.png"):
            tokenize(split, GREYS.bind(4), decoder=ImageDecoder(skip_bad_images=True))


def test_images_without_labels_come_from_a_cache(tmp_path):
    split, images = photos(tmp_path / "photos", 8)
    unlabeled = FileSplit("unlabeled", split.paths)
    for split in (unlabeled, ArraySplit("array", images)):
        plain, cached = (
            numbers(stream(split, cache=cache), 8) for cache in (None, tmp_path / "cache")
        )
        np.testing.assert_array_equal(plain, cached)
