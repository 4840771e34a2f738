import numpy as np
from sklearn.datasets import load_digits

from igpt_keras.data.sources.digits import open_digits


def rows(images):
    return {image.tobytes() for image in images}


def test_splits_are_a_partition_with_equal_shares_of_every_digit():
    digits = open_digits()
    splits = digits.train, digits.validation, digits.test
    assert [split.num_examples for split in splits] == [1257, 180, 360]
    images = np.concatenate([split.images for split in splits])
    assert images.dtype == np.uint8
    assert images.shape == (1797, 8, 8, 3)
    source = load_digits()
    expected = np.rint(source.images / 16 * 255).astype(np.uint8)
    assert rows(images[..., 0]) == rows(expected)
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    share = np.bincount(source.target) / 1797
    for split in splits:
        assert split.labels.dtype == np.int32
        proportions = np.bincount(split.labels) / split.num_examples
        np.testing.assert_allclose(proportions, share, atol=0.01)


def test_labels_stay_with_their_images():
    digits = open_digits(seed=3)
    source = load_digits()
    expected = np.rint(source.images / 16 * 255).astype(np.uint8)
    label_of = {
        image.tobytes(): label for image, label in zip(expected, source.target, strict=True)
    }
    for image, label in zip(digits.test.images, digits.test.labels, strict=True):
        assert label_of[np.ascontiguousarray(image[..., 0]).tobytes()] == label


def test_the_seed_decides_the_split():
    first, same, other = (open_digits(seed).test.images for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
