"""Sampling and scores on Keras' JAX backend, where TensorFlow cannot be imported."""

import ast
import dataclasses
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import ImageGPT, InputError
from igpt_keras.sampling import backends
from igpt_keras.sampling.backends import backend
from igpt_keras.sampling.drafts import NeighborDraft
from tests.interpreter import Interpreter
from tests.sampling.backend_cases import COMPLETIONS, compute

MODELS = {
    "dense": {},
    "strided": {"attention": "strided"},
    "fixed": {"attention": "fixed"},
    "classes": {"num_classes": 3},
    "bert": {},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, plain_model, randomized):
    """Models, images and a draft."""
    folder = tmp_path_factory.mktemp("models")
    images = np.random.default_rng(7).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    np.save(folder / "images.npy", images)
    for seed, (name, sizes) in enumerate(MODELS.items()):
        config = dataclasses.replace(plain_model.config, **sizes)
        objective = "bert" if name == "bert" else "ar"
        model = ImageGPT(config, objective, tokenizer=plain_model.tokenizer)
        randomized(model, seed).save_to_preset(folder / name)
    tokens = plain_model.tokenizer.tokenize(images)
    NeighborDraft.fit(tokens, vocabulary_size=8).save(folder / "neighbors.npz")
    return folder


@pytest.fixture(scope="module")
def results(folder, tmp_path_factory, jax_interpreter):
    """What `compute` returns on TensorFlow and on JAX."""
    path = tmp_path_factory.mktemp("jax") / "results.npz"
    jax_interpreter.run(
        """
        import pathlib, sys, numpy as np
        from tests.sampling.backend_cases import compute
        np.savez(sys.argv[2], **compute(pathlib.Path(sys.argv[1])))
        """,
        folder,
        path,
    )
    return compute(folder), np.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPLETIONS)
def test_completions_are_those_of_tensorflow(results, name):
    expected, found = results
    for field in ("images", "tokens", "num_forward_passes"):
        np.testing.assert_array_equal(found[f"{name}.{field}"], expected[f"{name}.{field}"])
    for field in ("log_likelihood", "entropy"):
        key = f"{name}.{field}"
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_scores_are_those_of_tensorflow(results):
    expected, found = results
    names = [name for name in expected if name.partition(".")[2].startswith(("score", "by", "per"))]
    assert len(names) == 7
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["on_tensorflow", "on_jax"])
def test_a_backend_offers_what_is_listed(name):
    """Read as text: JAX may not be installed."""
    listed = re.findall(r"`(\w+)`(?=[^|]*\|[^|]+\|$)", backends.__doc__, re.MULTILINE)
    module = ast.parse((pathlib.Path(backends.__file__).parent / f"{name}.py").read_text("utf-8"))
    defined = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
    for node in module.body:
        if isinstance(node, ast.Assign):
            defined |= {target.id for target in node.targets}
        elif isinstance(node, ast.ImportFrom):
            defined |= {alias.asname for alias in node.names if alias.asname}
    assert defined == set(listed)


@pytest.mark.slow
def test_random_bits_are_those_of_tensorflow(tmp_path, jax_interpreter):
    seeds = np.array([0, 3, 2**32 + 5, 2**62 + 2**31, 2**63 - 1])
    # 3 · 7 is not a multiple of the four words that the generator makes at once.
    expected = backend.random_bits(tf.constant(seeds), tf.constant(2), 3, 3, 7)
    np.savez(tmp_path / "bits.npz", seeds=seeds, bits=expected)
    jax_interpreter.run(
        """
        import pathlib, sys, jax, numpy as np
        from igpt_keras.sampling.backends import backend
        stored = np.load(pathlib.Path(sys.argv[1]) / "bits.npz")
        seeds = backend.as_seeds(stored["seeds"])
        bits = backend.random_bits(seeds, jax.numpy.int32(2), 3, 3, 7)
        assert bits.dtype == "uint32"
        np.testing.assert_array_equal(bits, stored["bits"])
        """,
        tmp_path,
    )


@pytest.mark.slow
def test_each_call_sees_the_weights_of_model_and_draft(folder, jax_interpreter):
    jax_interpreter.run(
        """
        import pathlib, sys, numpy as np, igpt_keras
        folder = pathlib.Path(sys.argv[1])
        images = np.load(folder / "images.npy")
        model, other, draft = (igpt_keras.load(folder / "dense") for _ in range(3))
        generator = np.random.default_rng(9)
        other.set_weights([generator.normal(0, 0.3, w.shape) for w in other.get_weights()])

        def results():
            completed = model.generate(images, keep_rows=1, draft=draft, num_completions=4)
            return completed.tokens, model.score(images), completed.num_forward_passes

        before = results()
        model.set_weights(other.get_weights())
        draft.set_weights(other.get_weights())
        after = results()
        assert (before[0] != after[0]).any() and np.abs(before[1] - after[1]).max() > 0.1
        expected = other.generate(images, keep_rows=1, num_completions=4)
        np.testing.assert_array_equal(after[0], expected.tokens)
        np.testing.assert_allclose(after[1], other.score(images), rtol=1e-6)
        # A draft guesses the more, the more it is like the model.
        assert after[2] == before[2], (before[2], after[2])
        draft.set_weights([0 * w for w in draft.get_weights()])
        assert results()[2] > after[2]
        """,
        folder,
    )


@pytest.mark.slow
def test_callbacks_sample_while_a_model_trains(folder, tmp_path, jax_interpreter):
    jax_interpreter.run(
        """
        import pathlib, sys, warnings, keras, numpy as np, igpt_keras
        folder = pathlib.Path(sys.argv[1])
        images, labels = np.load(folder / "images.npy"), np.arange(3)
        model = igpt_keras.load(folder / "classes")
        scores, rows = [], []

        class Sampling(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                self.model.sample(2, labels=1, on_row=lambda row, pixels: rows.append(row))
                scores.append(self.model.score(images, labels).sum())

        model.compile(keras.optimizers.Adam(0.01))
        settings = dict(batch_size=1, epochs=3, verbose=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.fit(images, labels, callbacks=[Sampling()], **settings)
        assert rows == 9 * [0, 1, 2, 3], rows
        assert len(set(scores)) == 9 and scores[-1] > scores[0] + 1, scores
        np.testing.assert_allclose(model.score(images, labels).sum(), scores[-1], rtol=1e-6)
        again = igpt_keras.load(model.save_to_preset(sys.argv[2]))
        tokens = [each.sample(3, labels=[0, 1, 2]).tokens for each in (model, again)]
        np.testing.assert_array_equal(*tokens)
        """,
        folder,
        tmp_path / "trained",
    )


@pytest.mark.slow
def test_a_model_on_jax_is_freed_with_what_was_compiled_for_it(folder, jax_interpreter):
    jax_interpreter.run(
        """
        import gc, pathlib, sys, weakref, numpy as np, igpt_keras
        folder = pathlib.Path(sys.argv[1])
        images = np.load(folder / "images.npy")

        def use():
            model, draft = (igpt_keras.load(folder / "dense") for _ in range(2))
            model.generate(images, keep_rows=2, draft=draft)
            model.score(images)
            return [weakref.ref(each) for each in (model, draft, model.token_head.kernel)]

        references = use()
        gc.collect()
        assert [reference() for reference in references] == [None] * 3
        """,
        folder,
    )


@pytest.mark.slow
def test_a_model_split_over_devices_samples_what_one_device_does(folder, results):
    devices = "--xla_force_host_platform_device_count=2"
    with Interpreter.on_jax(XLA_FLAGS=devices) as jax:
        jax.run(
            """
            import pathlib, sys, jax, keras, numpy as np, igpt_keras
            from igpt_keras.models.sharding import layout_map
            from tests.sampling.backend_cases import COMPLETIONS
            folder, expected = pathlib.Path(sys.argv[1]), np.load(sys.argv[2])
            images = np.load(folder / "images.npy")
            config = igpt_keras.load(folder / "dense").config
            mesh = keras.distribution.DeviceMesh((1, 2), ("batch", "model"))
            keras.distribution.set_distribution(
                keras.distribution.ModelParallel(
                    layout_map=layout_map(config, mesh), batch_dim_name="batch"
                )
            )
            model = igpt_keras.load(folder / "dense")
            kernel = model.backbone.blocks[0].mlp.up_proj.kernel.value
            assert kernel.addressable_shards[0].data.size == kernel.size // 2
            tokens = model.generate(images, **COMPLETIONS["mask"][1]).tokens
            np.testing.assert_array_equal(tokens, expected["mask.tokens"])
            np.testing.assert_allclose(model.score(images), expected["dense.score"], rtol=1e-5)
            """,
            folder,
            results[1].fid.name,
        )


def test_other_backends_are_refused(plain_model, images, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    for use in (plain_model.score, lambda images: plain_model.generate(images, keep_rows=2)):
        with pytest.raises(InputError, match="sampling needs .*=tensorflow or jax, got torch"):
            use(images)
