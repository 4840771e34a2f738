"""Completions depend on known pixels only, and leave them as they are."""

import functools

import numpy as np
import pytest

from igpt_keras import ImageGPT, ImageGPTConfig
from igpt_keras.sampling.drafts import NeighborDraft
from tests.tokenizers.masks import differing_where_unknown, some_masks
from tests.tokenizers.tangle import Tangle

SIZE = 4
MASKS = some_masks(SIZE)


@pytest.fixture(scope="module")
def make_model(randomized):
    """Makes a model once for each of its arguments, so that it is compiled once."""

    @functools.cache
    def make(objective, grid, seed=1):
        config = ImageGPTConfig(SIZE, 7, 16, 1, 2, grid=grid)
        return randomized(ImageGPT(config, objective, tokenizer=Tangle(SIZE, grid)), seed=seed)

    return make


@pytest.fixture(
    scope="module",
    params=[
        ("ar", (2, 2)),
        ("bert", (4, 12)),
        pytest.param(("ar", (4, 12)), marks=pytest.mark.slow),
        pytest.param(("ar", (3, 5)), marks=pytest.mark.slow),
        pytest.param(("bert", (2, 2)), marks=pytest.mark.slow),
        pytest.param(("bert", (3, 5)), marks=pytest.mark.slow),
    ],
    ids=str,
)
def model(request, make_model):
    return make_model(*request.param)


def assert_same(completed, others):
    for name in ("tokens", "images", "log_likelihood", "entropy"):
        np.testing.assert_array_equal(getattr(completed, name), getattr(others, name))


def test_unknown_pixels_have_no_effect(model):
    images, others = differing_where_unknown(MASKS)
    options = {"known_mask": MASKS, "num_completions": 2, "seed": 3}
    completed = model.generate(images, **options)
    assert_same(completed, model.generate(others, **options))
    known = np.broadcast_to(MASKS[:, None], completed.images.shape[:-1])
    given = np.broadcast_to(images[:, None], completed.images.shape)
    np.testing.assert_array_equal(completed.images[known], given[known])
    sampled = model.tokenizer.detokenize(completed.tokens)
    np.testing.assert_array_equal(completed.images[~known], sampled[~known])
    # The last image is known, the first of `keep_rows` is not.
    assert not completed.log_likelihood[-1].any()
    assert len(np.unique(completed.tokens[-1 - SIZE])) > 1


def test_kept_rows_are_a_mask(model):
    images, others = differing_where_unknown(MASKS[-1 - SIZE :])
    for keep_rows in range(SIZE + 1):
        completed, peeked, masked = (
            model.generate(x[keep_rows, None], seed=4, **options)
            for x, options in (
                (images, {"keep_rows": keep_rows}),
                (others, {"keep_rows": keep_rows}),
                (others, {"known_mask": MASKS[keep_rows - 1 - SIZE]}),
            )
        )
        assert_same(completed, peeked)
        assert_same(completed, masked)


@pytest.mark.slow
@pytest.mark.parametrize("grid", [(2, 2), (4, 12), (3, 5)], ids=str)
def test_a_draft_changes_nothing(make_model, grid):
    model = make_model("ar", grid)
    images, others = differing_where_unknown(MASKS)
    plain = model.generate(images, known_mask=MASKS, seed=3)
    tokens = np.random.default_rng(0).integers(0, 7, (20, grid[0] * grid[1]))
    neighbors = NeighborDraft.fit(tokens, 7, columns=grid[1])
    for draft in (make_model("ar", grid, seed=2), neighbors):
        drafted = model.generate(others, known_mask=MASKS, seed=3, draft=draft)
        np.testing.assert_array_equal(drafted.tokens, plain.tokens)
        np.testing.assert_array_equal(drafted.images, plain.images)
        assert drafted.num_forward_passes < plain.num_forward_passes


def test_rows_are_reported_when_all_tokens_are_there(make_model):
    rows = []
    images = np.full((2, SIZE, SIZE, 3), 9, np.uint8)
    completed = make_model("ar", (2, 2)).generate(
        images, keep_rows=2, num_completions=3, on_row=lambda *row: rows.append(row)
    )
    assert [row for row, _ in rows] == list(range(SIZE))
    np.testing.assert_array_equal(np.stack([x for _, x in rows], axis=2), completed.images)
