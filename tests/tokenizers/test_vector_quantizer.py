"""The vector quantizer against Sonnet's, scikit-learn's and closed forms."""

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from igpt_keras.tokenizers.learned._quantizer import CodeUsage, VectorQuantizer
from tests.conftest import FIXTURES

# As in Sonnet: no start from the data, no dead codes moved.
PLAIN = {"start_from_data": False, "restart_below": 0.0}


@pytest.fixture
def vectors():
    return np.random.default_rng(2).normal(size=(2, 6, 6, 3)).astype(np.float32)


def make(size, dim, codebook=None, **settings):
    quantizer = VectorQuantizer(size, dim, **settings)
    quantizer.build((None, None, None, dim))
    if codebook is not None:
        quantizer.codebook.assign(codebook)
    return quantizer


def codebook_of(quantizer):
    return ops.convert_to_numpy(quantizer.codebook)


def usage_of(size, *batches):
    usage = CodeUsage(size)
    for indices in batches:
        usage.update_state(ops.convert_to_tensor(indices))
    return {name: float(value) for name, value in usage.result().items()}


def test_it_takes_the_steps_of_sonnets():
    """`tests/fixtures/vector_quantizer/record.py` ran Sonnet's."""
    recorded = np.load(FIXTURES / "vector_quantizer" / "sonnet.npz")
    settings = {name: float(recorded[name]) for name in ("commitment_cost", "decay", "epsilon")}
    codebook = recorded["initial_codebook"]
    quantizer = make(*codebook.shape, codebook, **settings, **PLAIN)
    for step, batch in enumerate(recorded["vectors"]):
        codes, indices = quantizer(batch, training=True)
        indices = ops.convert_to_numpy(indices)
        np.testing.assert_array_equal(indices, recorded["encoding_indices"][step])
        perplexity = usage_of(len(codebook), indices)["perplexity"]
        for name, found in (
            ("quantize", codes),
            ("loss", quantizer.losses[0]),
            ("perplexity", perplexity),
            ("codebook", quantizer.codebook),
        ):
            np.testing.assert_allclose(
                ops.convert_to_numpy(found), recorded[name][step], rtol=1e-6, atol=1e-6
            )


def test_codes_are_the_nearest(vectors):
    quantizer = make(7, 3, seed=1)
    before = codebook_of(quantizer)
    codes, indices = quantizer(vectors)
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(before)
    expected = search.kneighbors(vectors.reshape(-1, 3), return_distance=False)[:, 0]
    np.testing.assert_array_equal(ops.convert_to_numpy(indices).ravel(), expected)
    np.testing.assert_allclose(
        ops.convert_to_numpy(codes).reshape(-1, 3), before[expected], atol=1e-6
    )
    # Outside of training nothing changes.
    np.testing.assert_array_equal(codebook_of(quantizer), before)


def test_of_equally_near_codes_the_first_counts():
    quantizer = make(3, 2, np.array([[5, 5], [1, 0], [-1, 0]], np.float32))
    _, indices = quantizer(np.array([[[0, 3]]], np.float32))
    assert ops.convert_to_numpy(indices).tolist() == [[1]]


def test_gradients_pass_straight_through(vectors):
    """The encoder gets the decoder's gradient, plus that of the commitment loss."""
    tf = pytest.importorskip("tensorflow")
    factors = np.random.default_rng(3).normal(size=vectors.shape).astype(np.float32)
    quantizer = make(7, 3, commitment_cost=0.0)
    z = tf.constant(vectors)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z)
        codes, _ = quantizer(z)
        loss = tf.reduce_sum(tf.sin(codes) * factors)
    to_codes, to_input = tape.gradient(loss, [codes, z])
    np.testing.assert_array_equal(to_input, to_codes)
    assert np.abs(to_input).min() > 0
    quantizer.commitment_cost = 0.25
    with tf.GradientTape() as tape:
        tape.watch(z)
        codes, indices = quantizer(z)
        loss = quantizer.losses[0]
    apart = vectors - codebook_of(quantizer)[indices.numpy()]
    np.testing.assert_allclose(loss, 0.25 * np.mean(apart**2), rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(loss, z), 0.5 * apart / apart.size, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_step_at_decay_0_is_one_of_k_means(vectors):
    points = vectors.reshape(-1, 3)
    start = points[:5]
    quantizer = make(5, 3, start, decay=0.0, epsilon=1e-9, **PLAIN)
    for steps in (1, 2, 3):
        quantizer(vectors, training=True)
        kmeans = KMeans(5, init=start, n_init=1, max_iter=steps, tol=0, algorithm="lloyd")
        kmeans.fit(points)
        np.testing.assert_allclose(codebook_of(quantizer), kmeans.cluster_centers_, atol=1e-5)


def test_the_first_batch_gives_the_codes(vectors):
    def started(seed):
        quantizer = make(6, 3, decay=0.0, restart_below=0.0, seed=seed)
        _, indices = quantizer(vectors, training=True)
        return ops.convert_to_numpy(indices), codebook_of(quantizer)

    points = vectors.reshape(-1, 3)
    indices, codebook = started(0)
    # The codes were vectors: each was nearest to itself, so that it was used.
    assert set(indices.ravel()) == set(range(6))
    for code, mean in enumerate(codebook):
        np.testing.assert_allclose(mean, points[indices.ravel() == code].mean(axis=0), atol=1e-4)
    np.testing.assert_array_equal(started(0)[1], codebook)
    assert (started(1)[1] != codebook).any()


def test_dead_codes_move_to_vectors_of_the_batch(vectors):
    far = np.full((4, 3), 100, np.float32) + np.arange(4)[:, None]
    start = np.concatenate([vectors.reshape(-1, 3)[:2], far])
    settings = {"decay": 0.5, "start_from_data": False}
    quantizer = make(6, 3, start, **settings, restart_below=0.01)
    _, indices = quantizer(vectors, training=True)
    assert set(ops.convert_to_numpy(indices).ravel()) == {0, 1}
    moved = codebook_of(quantizer)[2:]
    distances = np.abs(moved[:, None] - vectors.reshape(-1, 3)).sum(axis=-1)
    np.testing.assert_array_equal(distances.min(axis=1), 0)
    _, indices = quantizer(vectors, training=True)
    assert set(ops.convert_to_numpy(indices).ravel()) == set(range(6))
    # Codes that are used stay where their vectors are.
    alone = make(6, 3, start, **settings, restart_below=0.0)
    alone(vectors, training=True)
    again = make(6, 3, start, **settings, restart_below=0.01)
    again(vectors, training=True)
    np.testing.assert_array_equal(codebook_of(alone)[:2], codebook_of(again)[:2])


def test_usage_is_that_of_all_batches():
    even = usage_of(8, [0, 1], [2, 3])
    assert even == {"perplexity": pytest.approx(4, rel=1e-5), "used_codes": 0.5}
    shares = np.array([1, 2, 5]) / 8
    skewed = usage_of(4, [[0, 1, 1, 2]], [[2, 2, 2, 2]])
    assert skewed["perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), 1e-5)
    assert skewed["used_codes"] == 0.75


def test_it_computes_in_float32_under_any_policy(vectors):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        quantizer = make(4, 3)
    finally:
        keras.config.set_dtype_policy("float32")
    codes, _ = quantizer(ops.cast(vectors, "bfloat16"))
    assert keras.backend.standardize_dtype(codes.dtype) == "float32"
    assert {variable.dtype for variable in quantizer.weights} >= {"float32"}
