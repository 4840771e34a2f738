import numpy as np
import pytest
from sklearn.datasets import load_digits as sklearn_digits

from igpt_keras import InputError
from igpt_keras.data.sources.digits import load_digits


def rows(images):
    return {image.tobytes() for image in images}


def test_splits_are_a_partition_with_equal_shares_of_every_digit():
    digits = load_digits()
    splits = digits.train, digits.validation, digits.test
    assert [len(split) for split in splits] == [1257, 180, 360]
    images = np.concatenate([split.images for split in splits])
    assert images.dtype == np.uint8
    assert images.shape == (1797, 8, 8, 3)
    source = sklearn_digits()
    expected = np.rint(source.images / 16 * 255).astype(np.uint8)
    assert rows(images[..., 0]) == rows(expected)
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    share = np.bincount(source.target) / 1797
    for split in splits:
        assert split.labels.dtype == np.int32
        np.testing.assert_allclose(np.bincount(split.labels) / len(split), share, atol=0.01)


def test_labels_stay_with_their_images():
    digits = load_digits(seed=3)
    source = sklearn_digits()
    expected = np.rint(source.images / 16 * 255).astype(np.uint8)
    label_of = {
        image.tobytes(): label for image, label in zip(expected, source.target, strict=True)
    }
    for image, label in zip(digits.test.images, digits.test.labels, strict=True):
        assert label_of[np.ascontiguousarray(image[..., 0]).tobytes()] == label


def test_the_seed_decides_the_split():
    first, same, other = (load_digits(seed).test.images for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_per_class_draws_so_many_of_each():
    train = load_digits().train
    few = train.per_class(10, seed=1)
    np.testing.assert_array_equal(np.bincount(few.labels), [10] * 10)
    assert len(rows(few.images)) == 100
    assert rows(few.images) < rows(train.images)
    np.testing.assert_array_equal(train.per_class(10, seed=1).images, few.images)
    with pytest.raises(InputError, match=r"class \d has \d+ images, 200 were asked for"):
        train.per_class(200, seed=0)


def test_tokens_are_the_nearest_colors_in_raster_order(palette):
    split = load_digits().validation
    tokens = split.tokens(palette)
    assert tokens.shape == (180, 64)
    np.testing.assert_array_equal(tokens[7].reshape(8, 8), palette.nearest(split.images[7]))
