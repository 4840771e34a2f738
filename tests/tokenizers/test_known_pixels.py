"""Tokens of images of which only some pixels are known."""

import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import ColorPalette, InputError, RGBTokenizer
from igpt_keras.tokenizers.known_pixels import fill_unknown, known_tokens
from tests.tokenizers.masks import differing_where_unknown, some_masks
from tests.tokenizers.mean_blocks import MeanBlocks
from tests.tokenizers.tangle import Tangle

SIZE = 6
MASKS = some_masks(SIZE)
GRIDS = [(3, 3), (6, 18), (6, 6), (1, 1), (4, 5), (9, 2)]


def palette():
    return ColorPalette(np.random.default_rng(1).uniform(-1, 1, (8, 3)), SIZE)


def tokenizers():
    blocks, rgb = MeanBlocks(SIZE, 4, [0, 80, 160, 255]), RGBTokenizer(SIZE)
    return [palette(), blocks, rgb, *(Tangle(SIZE, grid) for grid in GRIDS)]


def test_unknown_pixels_get_the_color_of_a_nearest_known_one():
    images, _ = differing_where_unknown(MASKS)
    filled = fill_unknown(images, MASKS)
    for image, mask, result in zip(images, MASKS, filled, strict=True):
        known = np.argwhere(mask)
        if not len(known):
            assert (result == 128).all()
            continue
        for place in np.ndindex(mask.shape):
            distances = ((known - place) ** 2).sum(axis=1)
            nearest = known[distances == distances.min()]
            colors = [tuple(image[tuple(other)]) for other in nearest]
            assert tuple(result[place]) in colors
        np.testing.assert_array_equal(result[mask], image[mask])


@pytest.mark.parametrize("grid", GRIDS)
def test_a_token_is_known_if_all_its_pixels_are(grid):
    rows, columns = grid
    # Each pixel in rows · columns parts, of which a token has SIZE · SIZE.
    parts = MASKS.repeat(rows, axis=1).repeat(columns, axis=2)
    expected = parts.reshape(-1, rows, SIZE, columns, SIZE).all(axis=(2, 4))
    np.testing.assert_array_equal(known_tokens(MASKS, grid), expected.reshape(len(MASKS), -1))


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=repr)
def test_unknown_pixels_change_no_token_that_is_known(tokenizer):
    images, others = differing_where_unknown(MASKS)
    tokens, known = tokenizer.tokenize_known(images, MASKS)
    again, _ = tokenizer.tokenize_known(others, MASKS)
    assert known.any() and not known.all()
    np.testing.assert_array_equal(tokens[known], again[known])
    if not tokenizer.pixelwise:
        np.testing.assert_array_equal(tokens, again)
    np.testing.assert_array_equal(tokens[-1], tokenizer.tokenize(images)[-1])
    if isinstance(tokenizer, Tangle):
        # A tokenizer that is given all pixels would have peeked.
        assert (tokenizer.tokenize(images) != tokenizer.tokenize(others)).any()


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=repr)
def test_graphs_compute_the_same_tokens(tokenizer):
    keep_rows = np.arange(SIZE + 1, dtype=np.int32)
    known = np.arange(SIZE)[:, None].repeat(SIZE, axis=1) < keep_rows[:, None, None]
    images, others = differing_where_unknown(known)
    tokenize = tf.function(tokenizer.tokenize_known_in_graph, autograph=False)
    expected = tokenizer.tokenize_known(images, known)
    for batch in (images, images if tokenizer.pixelwise else others):
        for found, wanted in zip(tokenize(batch, keep_rows), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_masks_have_the_shape_of_the_images():
    images = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    with pytest.raises(InputError, match=r"known must be boolean of shape \[2, 6, 6\], got bool"):
        palette().tokenize_known(images, np.ones((SIZE, SIZE), bool))
    with pytest.raises(InputError, match="known must be boolean .*, got float64"):
        palette().tokenize_known(images, np.ones((2, SIZE, SIZE)))


def test_a_token_that_is_no_pixel_is_final_with_all_others():
    blocks = MeanBlocks(SIZE)
    assert [blocks.final_rows(rows) for rows in range(4)] == [0, 0, 0, SIZE]
    for tokenizer in (palette(), RGBTokenizer(SIZE)):
        assert [tokenizer.final_rows(rows) for rows in (0, 2, SIZE)] == [0, 2, SIZE]
