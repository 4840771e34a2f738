import numpy as np
import pytest

from igpt_keras.data.data_set import open_data
from igpt_keras.data.labeled import LabeledImages
from igpt_keras.evaluation.baselines import generative_baselines, raw_pixel_accuracy


def brute_force(tokens, held_out, vocabulary_size, size, neighbor):
    """Counts one pixel at a time in dictionaries; `neighbor` maps (y, x) to a position."""

    def context(image, position):
        y, x = neighbor(*divmod(position, size))
        return image[y * size + x] if y >= 0 and x >= 0 else None

    counts = {}
    for image in tokens:
        for position, token in enumerate(image):
            row = counts.setdefault(context(image, position), [1] * vocabulary_size)
            row[token] += 1
    nll = []
    for image in held_out:
        for position, token in enumerate(image):
            row = counts.get(context(image, position), [1] * vocabulary_size)
            nll.append(-np.log(row[token] / sum(row)))
    return np.mean(nll)


def test_generative_baselines_are_those_counted_one_by_one():
    generator = np.random.default_rng(13)
    tokens, held_out = generator.integers(0, 5, (7, 9)), generator.integers(0, 5, (4, 9))
    baselines = generative_baselines(tokens, held_out, 5, (3, 3))
    counted = {
        "unigram": brute_force(tokens, held_out, 5, 3, lambda y, x: (-1, -1)),
        "left token": brute_force(tokens, held_out, 5, 3, lambda y, x: (y, x - 1)),
        "token above": brute_force(tokens, held_out, 5, 3, lambda y, x: (y - 1, x)),
    }
    assert baselines.pop("uniform") == pytest.approx(np.log(5))
    assert baselines == pytest.approx(counted)


def test_raw_pixels_tell_separable_classes_apart_and_noise_not():
    digits = open_data("digits")
    assert raw_pixel_accuracy(digits.train, digits.validation, digits.test) > 0.9
    shuffled = np.random.default_rng(0).permutation(digits.train.labels[:200])
    noise = LabeledImages(digits.train.images[:200], shuffled)
    assert raw_pixel_accuracy(noise, digits.validation, digits.test) < 0.3
