"""The VQ-VAE as a Keras model and as a tokenizer."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from sklearn.datasets import load_sample_images
from sklearn.neighbors import NearestNeighbors

import igpt_keras
from igpt_keras import VQVAE, ImageGPT, ImageGPTConfig, ImageTokenizer, InputError
from igpt_keras.tokenizers import tokenizers
from igpt_keras.tokenizers.learned import vqvae as module
from igpt_keras.training.strategies import make_strategy

SMALL = {"embedding_dim": 4, "hidden_dim": 4, "residual_dim": 4, "num_residual_layers": 1}


def make(image_size=8, num_downsampling=1, codebook_size=16, seed=4, **settings):
    """One with weights far from their initial values, and codes among the encoder's vectors."""
    tokenizer = VQVAE(image_size, num_downsampling, codebook_size=codebook_size, **SMALL | settings)
    generator = np.random.default_rng(seed)
    for weight in tokenizer.trainable_weights:
        weight.assign(generator.normal(0, 0.4, weight.shape))
    images = generator.uniform(-0.5, 0.5, (2, image_size, image_size, 3))
    vectors = ops.convert_to_numpy(tokenizer.encoder(images)).reshape(-1, 4)
    tokenizer.quantizer.codebook.assign(vectors[:codebook_size])
    return tokenizer


def photographs(size, number):
    """Square parts of scikit-learn's two photographs."""
    generator = np.random.default_rng(0)
    parts = []
    for index in range(number):
        photograph = load_sample_images().images[index % 2]
        top, left = (generator.integers(0, side - size) for side in photograph.shape[:2])
        parts.append(photograph[top : top + size, left : left + size])
    return np.stack(parts)


@pytest.fixture(scope="module")
def vqvae():
    return make()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(5).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)


class TestSizes:
    def test_the_papers_fit_into_200_thousand_parameters(self):
        for image_size, blocks in ((96, 1), (192, 2)):
            tokenizer = VQVAE(image_size, blocks)
            assert (tokenizer.grid, tokenizer.vocabulary_size) == ((48, 48), 512)
            assert tokenizer.count_params() < 200_000
        assert repr(tokenizer) == "<VQVAE: 512 tokens, images of 192×192>"

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"image_size": 90, "num_downsampling": 2}, "multiple of 4 for .*=2, got 90"),
            ({"image_size": 0}, "image_size must be an integer of at least 1, got 0"),
            ({"num_downsampling": 0}, "num_downsampling must be an integer of at least 1, got 0"),
            ({"image_size": 8.0}, "image_size must be an integer .*, got 8.0"),
            ({"codebook_size": True}, "codebook_size must be an integer .*, got True"),
            ({"num_residual_layers": -1}, "num_residual_layers must .* at least 0, got -1"),
            ({"decay": 1.0}, "decay must be >= 0 and < 1, got 1.0"),
            ({"commitment_cost": float("inf")}, "commitment_cost must be finite and >= 0, got inf"),
            ({"restart_below": -0.1}, "restart_below must be >= 0 and < 1, got -0.1"),
            ({"epsilon": 0.0}, "epsilon must be finite and > 0, got 0.0"),
            ({"start_from_data": 1}, "start_from_data must be true or false, got 1"),
            ({"seed": None}, "seed must be an integer, got None"),
        ],
    )
    def test_unusable_ones_are_named(self, settings, message):
        with pytest.raises(InputError, match=message):
            VQVAE(**{"image_size": 8, "num_downsampling": 1, **settings})

    def test_binding_to_another_size_is_refused(self, vqvae):
        assert vqvae.bind(8) is vqvae
        with pytest.raises(InputError, match="image_size=16, got a VQVAE for image_size=8"):
            vqvae.bind(16)


class TestTokens:
    def test_they_are_the_nearest_codes(self, vqvae, images):
        tokens = vqvae.tokenize(images)
        assert (tokens.shape, tokens.dtype) == ((5, 16), np.int32)
        vectors = ops.convert_to_numpy(vqvae.encoder(images.astype(np.float32) / 255 - 0.5))
        codes = ops.convert_to_numpy(vqvae.quantizer.codebook)
        search = NearestNeighbors(n_neighbors=1).fit(codes)
        nearest = search.kneighbors(vectors.reshape(-1, 4), return_distance=False)
        np.testing.assert_array_equal(tokens.ravel(), nearest[:, 0])
        assert len(np.unique(tokens)) > 4
        called = vqvae(images)
        np.testing.assert_array_equal(called["tokens"], tokens.reshape(5, 4, 4))
        restored = vqvae.detokenize(tokens)
        assert (restored.shape, restored.dtype) == (images.shape, np.uint8)
        np.testing.assert_allclose(restored, np.clip(called["images"], 0, 255), atol=0.51)

    def test_they_do_not_depend_on_the_batch(self, vqvae, images, monkeypatch):
        tokens = vqvae.tokenize(images)
        restored = vqvae.detokenize(tokens)
        alone = [vqvae.tokenize(image) for image in images]
        np.testing.assert_array_equal(np.stack(alone), tokens)
        monkeypatch.setattr(module, "MAX_DISTANCES", 2 * 16 * 16)
        np.testing.assert_array_equal(vqvae.tokenize(images[::-1]), tokens[::-1])
        np.testing.assert_array_equal(vqvae.detokenize(tokens[::-1]), restored[::-1])
        assert vqvae.tokenize(images[:0]).shape == (0, 16)
        assert vqvae.detokenize(tokens[:0]).shape == (0, 8, 8, 3)

    def test_those_of_a_graph_are_the_same(self, vqvae, images):
        tokens = vqvae.tokenize(images)
        in_graph = tf.function(vqvae.tokenize_in_graph)(images)
        assert in_graph.dtype == tf.int32
        np.testing.assert_array_equal(in_graph, tokens)
        restored = tf.function(vqvae.detokenize_in_graph)(tokens)
        np.testing.assert_array_equal(restored, vqvae.detokenize(tokens))

    def test_they_do_not_depend_on_the_dtype_policy(self, vqvae, images):
        mixed = make(dtype="mixed_bfloat16")
        np.testing.assert_array_equal(mixed.tokenize(images), vqvae.tokenize(images))
        assert mixed.fingerprint() == vqvae.fingerprint()
        assert mixed.quantizer.codebook.dtype == "float32"
        called = mixed(images)
        assert called["images"].dtype == tf.float32
        assert (called["tokens"].numpy().reshape(5, 16) == vqvae.tokenize(images)).mean() > 0.8

    def test_a_token_sees_only_its_surroundings(self, vqvae, images):
        """A 4×4 kernel and one of 3×3 on vectors that are two pixels apart: 8 pixels."""
        wide = make(image_size=32)
        image = np.tile(images[0], (4, 4, 1))
        changed = image.copy()
        changed[:, 16:] = 255 - changed[:, 16:]
        before, after = (wide.tokenize(x).reshape(16, 16) for x in (image, changed))
        np.testing.assert_array_equal(before[:, :6], after[:, :6])
        assert (before[:, 8:] != after[:, 8:]).any()

    @pytest.mark.slow
    def test_threads_of_a_pipeline_can_compute_them(self, vqvae, images):
        tokens = vqvae.tokenize(images)
        many = tf.data.Dataset.from_tensor_slices(images).repeat(40)

        def tokenize(image):
            return tf.ensure_shape(
                tf.numpy_function(vqvae.tokenize, [image], tf.int32, stateful=False), [16]
            )

        found = np.stack(list(many.map(tokenize, num_parallel_calls=16).as_numpy_iterator()))
        np.testing.assert_array_equal(found, np.tile(tokens, (40, 1)))


class TestLoss:
    def test_it_is_the_error_over_the_variance_and_the_commitment(self, images):
        tokenizer = make(start_from_data=False, commitment_cost=0.5)
        codes = ops.convert_to_numpy(tokenizer.quantizer.codebook)
        tokens = tokenizer.tokenize(images)
        called = tokenizer(images, training=True)
        error = np.mean((np.asarray(called["images"]) - images) ** 2)
        vectors = np.asarray(tokenizer.encoder(images.astype(np.float32) / 255 - 0.5))
        apart = vectors.reshape(-1, 4) - codes[tokens.ravel()]
        expected = [error / np.var(images / 1.0), 0.5 * np.mean(apart**2)]
        np.testing.assert_allclose([float(x) for x in tokenizer.losses], expected, rtol=1e-4)
        # The variance stays that of the first batch.
        tokenizer(images // 2, training=True)
        np.testing.assert_allclose(tokenizer.data_variance, np.var(images / 1.0), rtol=1e-4)

    @pytest.mark.parametrize(
        ("batch", "got"),
        [
            (np.zeros((1, 8, 8, 3), np.float32), r"float32 \[1, 8, 8, 3\]"),
            (np.zeros((1, 16, 16, 3), np.uint8), r"uint8 \[1, 16, 16, 3\]"),
            (np.zeros((8, 8, 3), np.uint8), r"uint8 \[8, 8, 3\]"),
            ([[1]], "list"),
        ],
    )
    def test_other_batches_are_named(self, vqvae, batch, got):
        with pytest.raises(InputError, match=rf"images must be uint8 \[B, 8, 8, 3\], got {got}"):
            vqvae(batch)


class TestSaved:
    def test_a_folder_holds_it(self, vqvae, images, tmp_path):
        vqvae.save_to_preset(tmp_path)
        assert {file.name for file in tmp_path.iterdir()} == {
            "tokenizer.json",
            "tokenizer.weights.h5",
        }
        loaded = ImageTokenizer.from_preset(tmp_path)
        assert type(loaded) is VQVAE
        np.testing.assert_array_equal(loaded.tokenize(images), vqvae.tokenize(images))
        assert loaded.fingerprint() == vqvae.fingerprint()
        assert loaded.fingerprint() != make(seed=5).fingerprint()
        for one, other in zip(loaded.weights, vqvae.weights, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_damaged_files_are_named(self, vqvae, tmp_path):
        vqvae.save_to_preset(tmp_path)
        weights, description = tmp_path / "tokenizer.weights.h5", tmp_path / "tokenizer.json"
        text = description.read_text()
        for change, message in (
            ({"codebook_size": 17}, r"tokenizer.weights.h5 is damaged or .* another shape"),
            ({"image_size": 7}, "image_size must be a multiple of 2"),
            ({"dtype": {"class_name": "Evil"}}, "dtype must be the name of a dtype policy"),
            ({"dtype": "float7"}, "float7"),
            ({"stride": 3}, "tokenizer.json does not describe a tokenizer: .*stride"),
        ):
            changed = json.loads(text)
            changed["config"] |= change
            description.write_text(json.dumps(changed))
            with pytest.raises(InputError, match=message):
                ImageTokenizer.from_preset(tmp_path)
        description.write_text(text)
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(InputError, match=r"tokenizer.weights.h5 is damaged"):
            ImageTokenizer.from_preset(tmp_path)
        weights.unlink()
        with pytest.raises(InputError, match=r"tokenizer.weights.h5 is missing; .*json needs it"):
            ImageTokenizer.from_preset(tmp_path)

    def test_a_keras_file_holds_it_with_its_optimizer(self, images, tmp_path):
        tokenizer = make()
        tokenizer.compile(keras.optimizers.Adam(0.02))
        tokenizer.optimizer.build(tokenizer.trainable_variables)
        tokenizer.optimizer.iterations.assign(7)
        tokenizer.save(tmp_path / "vqvae.keras")
        loaded = keras.saving.load_model(tmp_path / "vqvae.keras")
        assert type(loaded) is VQVAE
        np.testing.assert_array_equal(loaded.tokenize(images), tokenizer.tokenize(images))
        assert int(loaded.optimizer.iterations) == 7
        assert float(loaded.optimizer.learning_rate) == pytest.approx(0.02)
        assert loaded.get_config() == tokenizer.get_config()

    def test_the_kind_is_known_without_its_module(self):
        assert tokenizers.get("vqvae") is VQVAE
        assert VQVAE.kind == "vqvae"


class TestTraining:
    @pytest.mark.slow
    def test_it_learns_photographs(self):
        images = photographs(32, 64)
        tokenizer = VQVAE(32, 1, codebook_size=64)
        tokenizer.compile(keras.optimizers.Adam(2e-3))
        data = tf.data.Dataset.from_tensor_slices((images, np.zeros(64))).batch(16)
        history = tokenizer.fit(data, epochs=60, verbose=0).history
        assert history["reconstruction_loss"][0] > 0.5
        assert history["reconstruction_loss"][-1] < 0.1
        assert history["perplexity"][-1] > 16
        # Means over the images of an epoch, as those of `evaluate` at its end.
        measured = tokenizer.evaluate(images, return_dict=True, verbose=0)
        error = np.mean((tokenizer.predict(images, verbose=0)["images"] - images) ** 2)
        expected = error / float(tokenizer.data_variance)
        assert measured["reconstruction_loss"] == pytest.approx(expected, rel=1e-4)
        used = len(np.unique(tokenizer.tokenize(images))) / 64
        assert measured["used_codes"] == pytest.approx(used)
        rms = np.sqrt(np.mean(tokenizer.reconstruction_error(images) ** 2))
        assert rms == pytest.approx(np.sqrt(error), abs=0.5)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
    def test_it_learns_in_mixed_precision(self, dtype):
        images = photographs(16, 32)
        tokenizer = VQVAE(16, 1, codebook_size=32, dtype=dtype)
        tokenizer.compile(keras.optimizers.Adam(2e-3))
        losses = tokenizer.fit(images, epochs=30, batch_size=16, verbose=0).history["loss"]
        assert losses[-1] < 0.5 * losses[0]

    @pytest.mark.slow
    def test_two_replicas_end_where_one_ends(self):
        images = photographs(16, 24)
        # What is drawn comes from the first replica's share of a batch.
        settings = {"start_from_data": False, "restart_below": 0.0, **SMALL}
        # The replicas' shares of a batch differ.
        images[4::8] //= 4
        ends, logs = [], {"none": [], "mirrored": []}
        for kind in ("none", "mirrored"):
            with make_strategy(kind).scope():
                keras.utils.set_random_seed(3)
                tokenizer = VQVAE(16, 1, codebook_size=8, **settings)
                tokenizer.compile(keras.optimizers.SGD(0.05))
            note = keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs, of=logs[kind]: of.append(dict(logs)),
                on_test_batch_end=lambda batch, logs, of=logs[kind]: of.append(dict(logs)),
            )
            settings_of_fit = {"batch_size": 8, "verbose": 0, "callbacks": [note]}
            history = tokenizer.fit(images, epochs=3, shuffle=False, **settings_of_fit).history
            logs[kind] += [{name: each[-1] for name, each in history.items()}]
            tokenizer.evaluate(images, **settings_of_fit)
            ends.append(tokenizer.weights)
        assert len(logs["none"]) == 3 * 3 + 1 + 3
        for of_one, of_two in zip(logs["none"], logs["mirrored"], strict=True):
            assert of_two == pytest.approx(of_one, rel=1e-4)
        for of_one, of_two in zip(*ends, strict=True):
            np.testing.assert_allclose(of_one, of_two, rtol=1e-5, atol=1e-5, err_msg=of_one.path)

    @pytest.mark.slow
    def test_replicas_start_from_the_same_vectors(self):
        with make_strategy("mirrored").scope():
            tokenizer = VQVAE(16, 1, codebook_size=8, restart_below=0.5, **SMALL)
            tokenizer.compile()
        tokenizer.fit(photographs(16, 20), batch_size=8, epochs=2, verbose=0)
        for weight in tokenizer.weights:
            if hasattr(weight.value, "values"):
                first, second = (value.numpy() for value in weight.value.values)
                np.testing.assert_array_equal(first, second, err_msg=weight.path)

    @pytest.mark.slow
    def test_unusable_data_are_named(self):
        tokenizer = make()
        tokenizer.compile()
        for data in (np.zeros((2, 6, 6, 3), np.uint8), np.zeros((2, 8, 8, 3))):
            with pytest.raises(InputError, match=r"images must be uint8 \[B, 8, 8, 3\], got"):
                tokenizer.fit(data, verbose=0)

    @pytest.mark.slow
    def test_it_trains_and_tokenizes_on_jax(self, vqvae, images, tmp_path, jax_interpreter):
        np.save(tmp_path / "images.npy", images)
        vqvae.save_to_preset(tmp_path)
        jax_interpreter.run(
            """
            import pathlib, sys, keras, numpy as np, igpt_keras
            folder = pathlib.Path(sys.argv[1])
            images = np.load(folder / "images.npy")
            vqvae = igpt_keras.VQVAE.from_preset(folder)
            tokens = vqvae.tokenize(images)
            restored = vqvae.detokenize(tokens)
            vqvae.compile(keras.optimizers.SGD(0.1))
            history = vqvae.fit(images, epochs=3, batch_size=5, verbose=0).history
            vqvae.save_to_preset(folder)
            last = [history[name][-1] for name in sorted(history)]
            np.savez(folder / "jax.npz", tokens=tokens, restored=restored, history=last)
            """,
            tmp_path,
        )
        on_jax = np.load(tmp_path / "jax.npz")
        assert (on_jax["tokens"] == vqvae.tokenize(images)).mean() > 0.99
        restored = vqvae.detokenize(on_jax["tokens"]).astype(int)
        assert np.abs(on_jax["restored"] - restored).max() <= 1
        trained = VQVAE.from_preset(tmp_path)
        assert float(trained.quantizer.num_updates) == 3
        assert np.isfinite(on_jax["history"]).all()


class TestInAModel:
    @pytest.mark.slow
    def test_it_goes_where_the_model_goes(self, vqvae, images, tmp_path):
        config = ImageGPTConfig(8, 16, 16, 2, 2, grid=(4, 4))
        model = ImageGPT(config, tokenizer=vqvae)
        assert len(model.weights) == len(ImageGPT(config).weights)
        model.compile(keras.optimizers.Adam(1e-2))
        losses = model.fit(images, epochs=20, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
        sampled = model.sample(2, seed=1)
        np.testing.assert_array_equal(
            sampled.images[:, 0], vqvae.detokenize(sampled.tokens[:, 0].reshape(2, -1))
        )
        model.save_to_preset(tmp_path / "folder")
        model.save(tmp_path / "model.keras")
        for path in ("folder", "model.keras"):
            loaded = igpt_keras.load(tmp_path / path)
            assert type(loaded.tokenizer) is VQVAE
            assert loaded.tokenizer.fingerprint() == vqvae.fingerprint()
            np.testing.assert_array_equal(
                loaded.predict(images, verbose=0), model.predict(images, verbose=0)
            )

    @pytest.mark.slow
    def test_a_saved_graph_needs_no_package(self, vqvae, images, tmp_path):
        class Both(tf.Module):
            @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.uint8)])
            def tokenize(self, x):
                return vqvae.tokenize_in_graph(x)

            @tf.function(input_signature=[tf.TensorSpec([None, 16], tf.int32)])
            def detokenize(self, tokens):
                return vqvae.detokenize_in_graph(tokens)

        tf.saved_model.save(Both(), str(tmp_path / "saved"))
        np.save(tmp_path / "images.npy", images)
        program = """
import sys, numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1] + "/saved")
tokens = loaded.tokenize(tf.constant(np.load(sys.argv[1] + "/images.npy")))
np.savez(sys.argv[1] + "/found.npz", tokens=tokens, images=loaded.detokenize(tokens))
assert "igpt_keras" not in sys.modules
"""
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
        found = np.load(tmp_path / "found.npz")
        tokens = vqvae.tokenize(images)
        np.testing.assert_array_equal(found["tokens"], tokens)
        np.testing.assert_array_equal(found["images"], vqvae.detokenize(tokens))
