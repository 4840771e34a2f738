"""The Sparse Transformer's patterns against its formulas (https://arxiv.org/abs/1904.10509), 4.3.

`sparse_attention_masks.npz` holds masks of github.com/openai/sparse_attention, commit 199cdd3c:
`get_attn_mask`, and the layouts of `get_blocksparse_obj` for blocks of one position.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from igpt_keras.network import attention
from igpt_keras.network.attention_patterns.fixed import Fixed
from igpt_keras.network.attention_patterns.strided import Strided
from tests.conftest import FIXTURES

LENGTH, STRIDE, SUMMARY, HEADS = 24, 6, 2, 4
LAYERS = [
    *(("strided", layer) for layer in ("local", "column", "merged")),
    *(("fixed", layer) for layer in ("local", "summary", "merged")),
]

# It computes on rows of a sequence, and puts two parts together.
DEFAULT = ("fixed", "summary")


def pattern_of(name, layer, stride=STRIDE, summary=SUMMARY, heads=HEADS):
    return Strided(stride, layer) if name == "strided" else Fixed(stride, summary, heads, layer)


def closed_form(
    name, layer, causal, length=LENGTH, stride=STRIDE, summary=SUMMARY, heads=HEADS, window=None
):
    """bool [H, n, n]: the sets A of section 4.3, set by set; a position is in its own.

    `window` is the number of keys of a local layer of "strided": l, and l + 1 in the paper's text.
    """
    window = window or stride
    masks = np.zeros((heads, length, length), bool)
    for head, query in np.ndindex(heads, length):
        last = stride - summary * (head % (stride // summary))
        for key in range(length):
            row = key // stride == query // stride
            in_summary = last - summary <= key % stride < last
            near = abs(query - key) < window
            column = (query - key) % stride == 0
            seen = {
                ("strided", "local"): near,
                ("strided", "column"): column,
                ("strided", "merged"): near or column,
                ("fixed", "local"): row,
                ("fixed", "summary"): in_summary,
                ("fixed", "merged"): row or in_summary,
            }[name, layer]
            masks[head, query, key] = (seen or key == query) and not (causal and key > query)
    return masks


def dense_under_mask(query, key, value, mask):
    """All scores at once, [B, n, H, D]; its gradient is TensorFlow's, operation by operation."""
    scores = tf.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    exponentials = tf.exp(scores) * tf.cast(mask, scores.dtype)
    weights = exponentials / tf.reduce_sum(exponentials, axis=-1, keepdims=True)
    return tf.einsum("bhqk,bkhd->bqhd", weights, value)


def with_gradients(function, arrays, dtype):
    """The result of query, key and value, and its gradients: float64."""
    *inputs, upstream = (tf.cast(x, dtype) for x in arrays)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        attended = function(*inputs)
        total = tf.reduce_sum(attended * upstream)
    return [tf.cast(x, tf.float64).numpy() for x in (attended, *tape.gradient(total, inputs))]


@pytest.fixture(scope="module")
def arrays():
    """Query, key, value and a gradient for the result; scores differ by several nats."""
    return np.random.default_rng(3).normal(0, 1.5, (4, 2, LENGTH, HEADS, 4))


@pytest.fixture
def _small_blocks(monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK_SIZE", 5)


class TestMasks:
    @pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
    @pytest.mark.parametrize(("name", "layer"), LAYERS)
    def test_masks_are_those_of_the_formulas(self, name, layer, causal):
        positions = ops.arange(LENGTH)
        hidden = pattern_of(name, layer).hidden(positions, positions, causal)
        expected = closed_form(name, layer, causal)
        seen = np.broadcast_to(np.logical_not(hidden), expected.shape)
        np.testing.assert_array_equal(seen, expected)

    def test_masks_are_those_of_the_published_code(self):
        recorded = np.load(FIXTURES / "sparse_attention_masks.npz")
        length, stride = int(recorded["n"]), int(recorded["stride"])
        positions = ops.arange(length)
        heads = len(recorded["fixed"])
        for key, pattern in {
            "local": Strided(stride, "local"),
            "strided": Strided(stride, "column"),
            "fixed": Fixed(stride, 2, heads, "merged"),
            "fixed_single": Fixed(stride, 1, 1, "merged"),
        }.items():
            seen = np.logical_not(pattern.hidden(positions, positions, causal=True))
            # A pattern whose heads are alike has no axis of heads, as `get_attn_mask` has none.
            seen, expected = np.broadcast_arrays(seen, recorded[key])
            np.testing.assert_array_equal(seen, expected)

    @pytest.mark.parametrize(("name", "layer"), LAYERS)
    @pytest.mark.parametrize("capacity", [STRIDE - 2, 2 * STRIDE, LENGTH - 1])
    def test_a_decoder_reads_each_visible_key_once(self, name, layer, capacity):
        expected = closed_form(name, layer, causal=True)[:, :capacity, :capacity]
        positions = ops.arange(capacity)
        keys = np.asarray(pattern_of(name, layer).keys_of(positions, capacity))
        keys = np.broadcast_to(keys, (HEADS, *keys.shape[-2:]))
        for head, query in np.ndindex(expected.shape[:2]):
            read = [key for key in keys[head, query] if 0 <= key <= query]
            assert sorted(read) == np.flatnonzero(expected[head, query]).tolist()

    def test_two_layers_reach_all_earlier_positions(self):
        """A local layer and the other one, in the order of the blocks of a model."""
        everything = np.tri(LENGTH, dtype=bool)
        for name, layers in (("strided", ("local", "column")), ("fixed", ("local", "summary"))):
            first, second = (closed_form(name, layer, True).any(axis=0) for layer in layers)
            assert ((second.astype(int) @ first.astype(int) > 0) == everything).all()
        first, second = (closed_form("strided", x, True)[0] for x in ("column", "local"))
        assert ((second.astype(int) @ first.astype(int) > 0) == everything).all()

    def test_without_itself_a_summary_layer_misses_what_is_earlier_in_a_row(self):
        """The formulas alone, of which a position is not in its own set, at the paper's c = 1."""
        length, stride = 1024, 32
        row, column = np.divmod(np.arange(length), stride)
        causal = np.tri(length, dtype=bool)
        local = (row[:, None] == row) & causal
        summary = np.broadcast_to(column == stride - 1, causal.shape) & causal
        reached = summary.astype(np.float32) @ local.astype(np.float32) > 0
        missed = (causal & ~reached & ~summary).sum()
        # Within each row all pairs, but for the last position of the row, which is a summary.
        assert missed == 32 * (32 * 31 // 2)


class TestAttention:
    @pytest.mark.usefixtures("_small_blocks")
    @pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
    @pytest.mark.parametrize(
        ("dtype", "tolerance"),
        [("float32", 1e-5), pytest.param("bfloat16", 5e-2, marks=pytest.mark.slow)],
    )
    @pytest.mark.parametrize(("name", "layer"), LAYERS)
    def test_values_and_gradients_are_those_of_dense_attention_under_the_mask(
        self, arrays, name, layer, causal, dtype, tolerance
    ):
        mask = closed_form(name, layer, causal)
        expected = with_gradients(lambda *x: dense_under_mask(*x, mask), arrays, "float64")
        pattern = pattern_of(name, layer)
        actual = with_gradients(lambda *x: pattern.attend(*x, causal), arrays, dtype)
        for ours, theirs in zip(actual, expected, strict=True):
            assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()

    @pytest.mark.parametrize(
        ("name", "layer"),
        [pytest.param(*each, marks=[] if each == DEFAULT else pytest.mark.slow) for each in LAYERS],
    )
    def test_a_prefix_of_any_length_known_only_in_the_graph(self, arrays, name, layer):
        mask = closed_form(name, layer, causal=True)
        pattern = pattern_of(name, layer)
        attend = tf.function(
            lambda *x: pattern.attend(*x, True),
            input_signature=[tf.TensorSpec([None, None, HEADS, 4])] * 3,
        )
        inputs = arrays[:3].astype(np.float32)
        for length in (0, 1, STRIDE, 2 * STRIDE + 1):
            prefix = inputs[:, :, :length]
            expected = dense_under_mask(*prefix, mask[:, :length, :length])
            np.testing.assert_allclose(attend(*prefix), expected, atol=1e-5)
            np.testing.assert_allclose(pattern.attend(*prefix, True), expected, atol=1e-5)

    @pytest.mark.parametrize(
        "causal", [pytest.param(False, marks=pytest.mark.slow), True], ids=["full", "causal"]
    )
    @pytest.mark.parametrize(
        ("name", "layer"),
        [pytest.param(*each, marks=[] if each == DEFAULT else pytest.mark.slow) for each in LAYERS],
    )
    def test_there_are_no_scores_of_all_pairs(self, name, layer, causal):
        """Nor any tensor as large, in the graph of values and gradients."""
        length, stride = 256, 16
        pattern = pattern_of(name, layer, stride, summary=1, heads=2)

        @tf.function(input_signature=[tf.TensorSpec([1, length, 2, 4])] * 3)
        def gradients(*inputs):
            return tf.gradients(tf.reduce_sum(pattern.attend(*inputs, causal) ** 2), list(inputs))

        operations = gradients.get_concrete_function().graph.get_operations()
        outputs = [output for operation in operations for output in operation.outputs]
        largest = max(output.shape.num_elements() or 0 for output in outputs)
        assert 2 * length * 4 <= largest <= 2 * length * pattern.num_products(length, causal)
        assert pattern.num_products(length, causal) < length / 3

    @pytest.mark.slow
    def test_jax_has_the_same_values_and_gradients(self, arrays, tmp_path, jax_interpreter):
        np.save(tmp_path / "arrays.npy", arrays.astype(np.float32))
        jax_interpreter.run(
            f"""
            import sys, jax, numpy as np
            from igpt_keras.network.attention_patterns import attention_patterns
            arrays = np.load(sys.argv[1] + "/arrays.npy")
            for name, layer in {LAYERS}:
                sizes = {{"stride": {STRIDE}, "layer": layer}}
                if name == "fixed":
                    sizes.update(summary={SUMMARY}, num_heads={HEADS})
                pattern = attention_patterns.get(name)(**sizes)
                for causal in (False, True):
                    attend = jax.jit(lambda *x: pattern.attend(*x, causal))
                    attended, pullback = jax.vjp(attend, *arrays[:3])
                    found = np.stack([attended, *pullback(arrays[3])])
                    np.save(sys.argv[1] + f"/{{name}}-{{layer}}-{{causal}}.npy", found)
            """,
            tmp_path,
        )
        for (name, layer), causal in itertools.product(LAYERS, (False, True)):
            mask = closed_form(name, layer, causal)
            expected = with_gradients(lambda *x, m=mask: dense_under_mask(*x, m), arrays, "float64")
            found = np.load(tmp_path / f"{name}-{layer}-{causal}.npy")
            for ours, theirs in zip(found, expected, strict=True):
                assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
