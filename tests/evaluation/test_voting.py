import numpy as np

from igpt_keras.evaluation.voting import modal_vote


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
