import hashlib

import keras
import numpy as np
import pytest

from igpt_keras import ImageGPT
from igpt_keras.models.masking import (
    draw_fresh_mask,
    draw_mask,
    draw_mask_of_step,
    masked_inputs,
)


def digest(mask):
    return hashlib.sha256(np.packbits(np.asarray(mask)).tobytes()).hexdigest()[:16]


def test_masks_have_their_probability_and_votes_are_independent():
    masks = [draw_mask((400, 100), 0.3, seed=4, vote=vote) for vote in range(3)]
    masks.append(draw_mask((400, 100), 0.3, seed=5, vote=0))
    for index, mask in enumerate(masks):
        assert mask.dtype == bool and mask.shape == (400, 100)
        assert mask.mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / mask.size))
        for other in masks[:index]:
            both = np.mean(mask & other)
            assert both == pytest.approx(0.09, abs=5 * np.sqrt(0.09 * 0.91 / mask.size))
    np.testing.assert_array_equal(masks[1], draw_mask((400, 100), 0.3, seed=4, vote=1))


def test_a_mask_drawn_in_pieces_is_that_drawn_at_once():
    whole = draw_mask((10, 7), 0.5, seed=1, vote=2)
    pieces = [draw_mask((stop - start, 7), 0.5, 1, 2, start) for start, stop in ((0, 4), (4, 10))]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_fresh_masks_have_their_probability_and_differ():
    seed = keras.random.SeedGenerator(0)
    first, second = (
        keras.ops.convert_to_numpy(draw_fresh_mask((500, 16), 0.4, seed)) for _ in range(2)
    )
    assert (first != second).any()
    assert first.mean() == pytest.approx(0.4, abs=5 * np.sqrt(0.4 * 0.6 / first.size))


def test_masks_are_those_of_every_earlier_version():
    # Resumed runs, cached features and exported models rely on them.
    assert digest(draw_mask((4, 64), 0.15, seed=3, vote=1)) == "a48ad1da1352e039"
    assert digest(draw_mask_of_step((4, 64), 0.15, seed=3, step=7)) == "65c284a189a7a29b"
    seed = keras.random.SeedGenerator(3)
    assert (
        digest(keras.ops.convert_to_numpy(draw_fresh_mask((4, 64), 0.15, seed)))
        == "948037da29bf81c9"
    )


def test_masked_inputs_are_tokens_for_ar_and_the_masks_of_a_vote_for_bert(config, tokens):
    assert masked_inputs(ImageGPT(config), tokens, seed=0) is tokens
    inputs = masked_inputs(ImageGPT(config, "bert", mask_probability=0.3), tokens, seed=2, vote=1)
    np.testing.assert_array_equal(inputs["masked"], draw_mask((6, 16), 0.3, 2, 1))
    assert inputs["tokens"] is tokens
