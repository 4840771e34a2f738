import numpy as np
import pytest

from igpt_keras import InputError
from igpt_keras.data.labeled import LabeledImages, LabeledTokens

LABELS = np.random.default_rng(0).permutation(np.arange(300) % 10).astype(np.int32)
IMAGES = np.arange(300, dtype=np.uint16)[:, None].view(np.uint8).reshape(300, 1, 2, 1)


def test_per_class_draws_that_many_of_each_class():
    train = LabeledImages(IMAGES, LABELS)
    few = train.per_class(10, seed=1)
    np.testing.assert_array_equal(np.bincount(few.labels), [10] * 10)
    indices = few.images.reshape(100, 2).view(np.uint16)[:, 0]
    assert len(np.unique(indices)) == 100
    np.testing.assert_array_equal(LABELS[indices], few.labels)
    np.testing.assert_array_equal(train.per_class(10, seed=1).images, few.images)
    assert (train.per_class(10, seed=2).images != few.images).any()
    with pytest.raises(InputError, match=r"class \d must have at least 31 images, got 30"):
        train.per_class(31, seed=0)


def test_tokens_are_drawn_like_images():
    tokens = LabeledTokens(np.arange(300)[:, None], LABELS)
    few = tokens.per_class(3, seed=5)
    expected = LabeledImages(IMAGES, LABELS).per_class(3, seed=5)
    indices = expected.images.reshape(30, 2).view(np.uint16)
    np.testing.assert_array_equal(few.tokens, indices)
    np.testing.assert_array_equal(few.labels, expected.labels)


def test_short_reprs():
    assert repr(LabeledImages(IMAGES, LABELS)) == "<LabeledImages: [300, 1, 2, 1] uint8>"
    tokens = LabeledTokens(np.zeros((5, 64), np.int32), LABELS[:5])
    assert repr(tokens) == "<LabeledTokens: [5, 64] int32>"


def test_images_of_every_class_need_labels():
    unlabeled = LabeledTokens(np.zeros((5, 64), np.int32), np.full(5, -1, np.int32))
    with pytest.raises(InputError, match="every image must have a label"):
        unlabeled.per_class(1, seed=0)
