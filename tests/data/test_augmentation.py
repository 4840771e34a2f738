import itertools

import numpy as np
import pytest

from igpt_keras import InputError
from igpt_keras.data import augmentation as pieces
from igpt_keras.data.augmentation import augmentations


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def generator(seed):
    return np.random.default_rng(seed)


def area_by_hand(source, height, width):
    """Every pixel the mean over its part of the source, by overlaps of rows and columns."""

    def overlaps(length, count):
        edges = np.arange(count + 1) * length / count
        start, end = edges[:-1, None], edges[1:, None]
        pixels = np.arange(length)
        shares = np.clip(np.minimum(end, pixels + 1) - np.maximum(start, pixels), 0, None)
        return shares / shares.sum(axis=1, keepdims=True)

    rows, columns = overlaps(source.shape[0], height), overlaps(source.shape[1], width)
    return np.einsum("hr,wc,rcx->hwx", rows, columns, source.astype(np.float64), optimize=True)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (2, 3), (12, 18), (5, 7), (1, 1)])
def test_area_averages(height, width):
    source = np.stack([image(12, 18), image(12, 18, seed=1)])
    resized = pieces.resize_area(source, height, width)
    assert resized.dtype == np.uint8
    for one, result in zip(source, resized, strict=True):
        np.testing.assert_allclose(result, area_by_hand(one, height, width), atol=0.501)


def test_area_at_integer_factors_is_the_mean_of_blocks():
    source = image(12, 18)
    blocks = source.reshape(4, 3, 6, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(pieces.resize_area(source[None], 4, 6)[0], blocks, atol=0.501)


def test_squares_of_any_sizes_become_one_batch():
    squares = [image(8, 8), image(4, 4), image(8, 8, seed=1)]
    for chosen in (squares, squares[::2]):
        batch = pieces.resize_squares(chosen, 4)
        assert batch.shape == (len(chosen), 4, 4, 3)
        for square, result in zip(chosen, batch, strict=True):
            np.testing.assert_array_equal(result, pieces.resize_area(square[None], 4, 4)[0])


@pytest.mark.parametrize(("height", "width"), [(30, 50), (50, 30), (31, 31), (7, 300)])
def test_the_shorter_side_gets_its_length(height, width):
    resized = pieces.resize_shorter_side(image(height, width), 20)
    assert min(resized.shape[:2]) == 20
    ratio = max(resized.shape[:2]) / 20
    assert abs(ratio - max(height, width) / min(height, width)) <= 0.5 / 20
    assert (resized.shape[0] < resized.shape[1]) == (height < width)


def test_random_sides_and_crops_reach_both_ends():
    source = image(4, 5)
    sides = {
        min(pieces.random_resize_shorter_side(source, 6, 8, generator(seed)).shape[:2])
        for seed in range(60)
    }
    assert sides == {6, 7, 8}
    crops = {pieces.random_crop(source, 3, generator(seed)).tobytes() for seed in range(100)}
    possible = {
        source[top : top + 3, left : left + 3].tobytes()
        for top, left in itertools.product(range(2), range(3))
    }
    assert crops == possible


def test_center_crops_leave_equal_margins():
    source = image(7, 10)
    np.testing.assert_array_equal(pieces.center_crop(source, 3), source[2:5, 3:6])
    np.testing.assert_array_equal(pieces.center_square(source), source[:, 1:8])


@pytest.mark.parametrize("width", [0, 1, 4])
def test_reflect_padding(width):
    source = image(5, 6)
    expected = np.pad(source, [(width, width), (width, width), (0, 0)], mode="reflect")
    np.testing.assert_array_equal(pieces.reflect_pad(source, width), expected)


def test_cifar_training_images_are_all_crops_and_flips():
    source = image(32, 32)
    padded = np.pad(source, [(4, 4), (4, 4), (0, 0)], mode="reflect")
    possible = set()
    for top, left in itertools.product(range(9), range(9)):
        crop = padded[top : top + 32, left : left + 32]
        possible |= {crop.tobytes(), crop[:, ::-1].tobytes()}
    assert len(possible) == 9 * 9 * 2
    train = augmentations.get("cifar").train
    seen = {train(source, generator(seed)).tobytes() for seed in range(1500)}
    assert seen == possible


def test_cifar_evaluation_keeps_the_image():
    source = image(32, 32)
    np.testing.assert_array_equal(augmentations.get("cifar").evaluate(source), source)
    larger = augmentations.get("cifar").evaluate(image(96, 100))
    blocks = image(96, 100)[:, 2:98].reshape(32, 3, 32, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(larger, blocks, atol=0.501)


def test_imagenet_training_crops_lie_in_a_resized_image():
    # Pixels tell where they come from: red grows downwards, green to the right.
    height, width = 300, 400
    source = np.zeros((height, width, 3), np.uint8)
    source[..., 0] = np.linspace(0, 255, height)[:, None]
    source[..., 1] = np.linspace(0, 255, width)
    shares = []
    for seed in range(40):
        crop = augmentations.get("imagenet").train(source, generator(seed))
        assert crop.shape == (224, 224, 3)
        red, green = crop[:, 0, 0].astype(float), crop[0, :, 1].astype(float)
        down, right = (red[-1] - red[0]) / 255, (green[-1] - green[0]) / 255
        # The same scale both ways.
        assert abs(down * height - right * width) < 6
        shares.append(down)
    shares = np.array(shares)
    # 224 pixels of a shorter side in 256…384.
    assert (shares > 224 / 384 - 0.02).all() and (shares < 224 / 256 + 0.02).all()
    assert shares.min() < 0.63 and shares.max() > 0.82


def test_imagenet_evaluation_is_the_center():
    source = image(300, 448)
    expected = area_by_hand(source, 224, round(448 * 224 / 300))[:, 55:279]
    result = augmentations.get("imagenet").evaluate(source)
    np.testing.assert_allclose(result, expected, atol=0.51)


def test_none_trains_on_what_is_evaluated():
    assert augmentations.get("none").train is None
    np.testing.assert_array_equal(
        augmentations.get("none").evaluate(image(4, 6)), image(4, 6)[:, 1:5]
    )


def test_unknown_names():
    with pytest.raises(InputError, match="one of cifar, imagenet, none, got 'mnist'"):
        augmentations.get("mnist")
