import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTConfig, InputError
from igpt_keras.network.losses import token_nll
from igpt_keras.sampling.drafts import Draft, ModelDraft, NeighborDraft
from igpt_keras.sampling.samplers import Categorical, Greedy, TopP


@pytest.fixture(scope="session")
def neighbor_draft(digits):
    return NeighborDraft.fit(digits[1], vocabulary_size=4)


class WrongDraft(Draft):
    """Guesses color 0 everywhere."""

    def check(self, config):
        pass

    def begin(self, tokens, prefix, num_completions):
        return ()

    def spec(self):
        return ()

    def logits(self, state, tokens, start, count):
        logits = tf.constant([1e9, 0.0, 0.0, 0.0])
        return tf.tile(logits[None, None], [count, tf.shape(tokens)[1], 1]), state


@pytest.fixture(scope="session")
def drafts(trained, neighbor_draft):
    return {
        "model": trained[1],
        "neighbors": neighbor_draft,
        "the model itself": ModelDraft(trained[0]),
        "wrong": WrongDraft(),
    }


SAMPLERS = [Categorical(), Greedy(), Categorical(0.7, top_k=3), TopP(0.8)]


@pytest.mark.parametrize(
    "name",
    [
        "model",
        pytest.param("neighbors", marks=pytest.mark.slow),
        pytest.param("the model itself", marks=pytest.mark.slow),
        pytest.param("wrong", marks=pytest.mark.slow),
    ],
)
def test_completions_are_those_of_plain_decoding(trained, drafts, digits, name):
    images = digits[0][:3]
    for seed, sampler in enumerate(SAMPLERS):
        arguments = {"keep_rows": 2, "num_completions": 2, "seed": 10 * seed, "sampler": sampler}
        plain = trained[0].generate(images, **arguments)
        fast = trained[0].generate(images, draft=drafts[name], **arguments)
        np.testing.assert_array_equal(fast.tokens, plain.tokens)
        np.testing.assert_allclose(fast.log_likelihood, plain.log_likelihood, atol=1e-3)
        np.testing.assert_allclose(fast.total_log_likelihood, plain.total_log_likelihood, atol=1e-3)
        np.testing.assert_allclose(fast.entropy, plain.entropy, atol=1e-4)
        assert plain.num_forward_passes == 48
        assert fast.num_forward_passes < plain.num_forward_passes
        if name == "the model itself":
            assert fast.num_forward_passes < 48 / 2


def test_known_pixels_in_any_place_are_kept(trained, drafts, digits):
    # As many sequences as in the test above: nothing is traced anew.
    known = np.random.default_rng(3).random((6, 8, 8)) < 0.4
    images = digits[0][:6]
    for draft in (drafts["model"], drafts["neighbors"]):
        plain = trained[0].generate(images, known_mask=known, seed=5)
        fast = trained[0].generate(images, known_mask=known, seed=5, draft=draft)
        np.testing.assert_array_equal(fast.tokens, plain.tokens)
    original = digits[2].nearest(images)
    np.testing.assert_array_equal(fast.tokens.reshape(6, 8, 8)[known], original[known])


@pytest.mark.parametrize("window", [1, pytest.param(100, marks=pytest.mark.slow)])
def test_a_window_of_any_width_will_do(trained, neighbor_draft, digits, window):
    draft = NeighborDraft(neighbor_draft.places, neighbor_draft.neighbors)
    draft.window = window
    plain = trained[0].generate(digits[0][:2], keep_rows=3, seed=6)
    fast = trained[0].generate(digits[0][:2], keep_rows=3, seed=6, draft=draft)
    np.testing.assert_array_equal(fast.tokens, plain.tokens)
    assert window > 1 or fast.num_forward_passes == plain.num_forward_passes


def test_rows_come_in_order_and_are_final(trained, drafts, digits):
    rows = []
    completed = trained[0].generate(
        digits[0][:6],
        keep_rows=3,
        draft=drafts["neighbors"],
        on_row=lambda row, pixels: rows.append((row, pixels)),
    )
    assert [row for row, _ in rows] == list(range(8))
    for row, pixels in rows:
        np.testing.assert_array_equal(pixels, completed.images[:, :, row])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", "neighbors"])
def test_what_xla_compiles_gives_the_same(trained, drafts, digits, name):
    arguments = {"images": digits[0][:2], "keep_rows": 5, "seed": 4}
    plain = trained[0].generate(**arguments)
    fast = trained[0].generate(**arguments, draft=drafts[name], jit_compile=True)
    np.testing.assert_array_equal(fast.tokens, plain.tokens)


def test_samples_follow_the_exact_distribution():
    # Four pixels of three colors: 81 images, whose probabilities are enumerated.
    config = ImageGPTConfig(
        image_size=2, vocabulary_size=3, hidden_dim=8, num_layers=1, num_heads=1
    )
    generator = np.random.default_rng(9)
    palette = igpt_keras.ColorPalette([[-1, -1, -1], [0, 0, 0], [1, 1, 1]])
    model, draft = ImageGPT(config, tokenizer=palette), ImageGPT(config)
    for any_model in (model, draft):
        weights = [generator.normal(0, 0.5, w.shape) for w in any_model.get_weights()]
        any_model.set_weights(weights)
    count = 10_000
    drawn = model.sample(count, draft=draft).tokens[:, 0]
    every = np.stack(np.meshgrid(*[range(3)] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    every = every.astype(np.int32)
    probabilities = np.exp(-ops.convert_to_numpy(token_nll(every, model(every))).sum(axis=1))
    counts = np.bincount(drawn @ [27, 9, 3, 1], minlength=81)
    chi_square = ((counts - count * probabilities) ** 2 / (count * probabilities)).sum()
    # 80 degrees of freedom: mean 80, standard deviation 12.6.
    assert chi_square < 80 + 5 * 12.6


def test_neighbors_are_looked_up_where_they_are(neighbor_draft):
    tables = neighbor_draft.places, neighbor_draft.neighbors
    tokens = np.random.default_rng(6).integers(0, 4, (64, 2)).astype(np.int32)
    for draft, rows, columns in (
        (neighbor_draft, 8, 8),
        (NeighborDraft(*tables, columns=16), 4, 16),
    ):
        seen, _ = draft.logits((), tf.constant(tokens), 0, 64)
        for sequence in range(2):
            image = np.pad(tokens[:, sequence].reshape(rows, columns), 1, constant_values=4)
            for row, column in np.ndindex(rows, columns):
                y, x = row + 1, column + 1
                beside = image[y, x - 1], image[y - 1, x], image[y - 1, x - 1], image[y - 1, x + 1]
                position = columns * row + column
                expected = draft.places[position] + sum(
                    table[color] for table, color in zip(draft.neighbors, beside, strict=True)
                )
                got = seen[position, sequence]
                np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_neighbors_that_decide_a_token_are_found():
    # Every token is the one above it plus one; the first row is random.
    generator = np.random.default_rng(2)
    first = generator.integers(0, 5, (400, 1, 9))
    tokens = ((first + np.arange(4)[:, None]) % 5).reshape(400, 36)
    draft = NeighborDraft.fit(tokens, vocabulary_size=5, columns=9)
    above = draft.neighbors[1, :5]
    np.testing.assert_array_equal(above.argmax(axis=1), (np.arange(5) + 1) % 5)


def test_a_draft_is_saved_and_loaded(neighbor_draft, tmp_path):
    draft = NeighborDraft(neighbor_draft.places, neighbor_draft.neighbors, columns=16)
    draft.save(tmp_path / "draft.npz")
    loaded = NeighborDraft.load(tmp_path / "draft.npz")
    np.testing.assert_array_equal(loaded.places, draft.places)
    np.testing.assert_array_equal(loaded.neighbors, draft.neighbors)
    assert loaded.token_grid == (4, 16)
    with pytest.raises(FileExistsError):
        draft.save(tmp_path / "draft.npz")


@pytest.mark.parametrize(
    "content", [b"", b"no draft", b"PK\3\4 cut off", "other arrays", "one array"]
)
def test_a_file_that_is_no_draft_is_named(tmp_path, content):
    path = tmp_path / "draft.npz"
    if content == "other arrays":
        np.savez(path, colors=np.zeros(3))
    elif content == "one array":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match="draft .*draft.npz is unusable"):
        NeighborDraft.load(path)


def test_drafts_that_do_not_fit_are_named(trained, digits, config, neighbor_draft):
    model, images = trained[0], digits[0][:1]
    with pytest.raises(InputError, match="model's vocabulary_size=4 and 8 × 8 .*=8 and 4 × 4 tok"):
        model.generate(images, keep_rows=2, draft=ImageGPT(config))
    with pytest.raises(InputError, match="draft must be a model or a NeighborDraft, got str"):
        model.generate(images, keep_rows=2, draft="small")
    with pytest.raises(InputError, match='objective="ar"'):
        model.generate(images, keep_rows=2, draft=ImageGPT(model.config, "bert"))
    with pytest.raises(InputError, match=r"tables \[n, V\] and \[4, V \+ 1, V\], got \[64, 3\]"):
        NeighborDraft(neighbor_draft.places[:, :3], neighbor_draft.neighbors)
    with pytest.raises(InputError, match="columns must be given unless n is a square, got n=7"):
        NeighborDraft(neighbor_draft.places[:7], neighbor_draft.neighbors)
    with pytest.raises(InputError, match="columns must divide .* n=64, got 3"):
        NeighborDraft(neighbor_draft.places, neighbor_draft.neighbors, columns=3)
    with pytest.raises(InputError, match="must be finite"):
        NeighborDraft(neighbor_draft.places * np.nan, neighbor_draft.neighbors)
    for tokens in (np.zeros((0, 4), int), np.zeros(4, int)):
        with pytest.raises(InputError, match=r"tokens must have shape \[N, n\]"):
            NeighborDraft.fit(tokens, 3)
    with pytest.raises(InputError, match="tokens must be integers in 0…2, got .* in 0…3"):
        NeighborDraft.fit(np.arange(4)[None], 3)
