import numpy as np
import pytest

from igpt_keras.evaluation.voting import draw_mask, modal_vote


def test_the_modal_class_wins():
    generator = np.random.default_rng(0)
    predictions = generator.integers(0, 4, (5, 300))
    winners = modal_vote(predictions, 4, seed=1)
    counts = [np.bincount(votes, minlength=4) for votes in predictions.T]
    assert winners.shape == (300,)
    assert all(count[winner] == count.max() for count, winner in zip(counts, winners, strict=True))
    assert any((count == count.max()).sum() > 1 for count in counts)


def test_ties_are_broken_uniformly_and_as_the_seed_says():
    # Two votes for 1, two for 3, one for 4: 1 or 3 at random, never 0, 2 or 4.
    predictions = np.repeat([[3], [1], [4], [1], [3]], 4000, axis=1)
    winners = modal_vote(predictions, 6, seed=2)
    counts = np.bincount(winners, minlength=6)
    assert set(np.flatnonzero(counts)) == {1, 3}
    # Five standard deviations of a fair coin.
    assert abs(counts[1] - 2000) < 5 * np.sqrt(1000)
    np.testing.assert_array_equal(winners, modal_vote(predictions, 6, seed=2))
    assert (winners != modal_vote(predictions, 6, seed=3)).any()


def test_one_vote_is_its_own_mode():
    predictions = np.random.default_rng(0).integers(0, 3, (1, 50))
    np.testing.assert_array_equal(modal_vote(predictions, 3), predictions[0])


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
