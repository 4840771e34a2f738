"""The model on JAX, and without TensorFlow, each in a process of its own."""

import dataclasses
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from igpt_keras import ImageGPT, ImageGPTClassifier
from tests.conftest import FIXTURES


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["ar", "bert"])
def test_forward_pass_and_training_step_on_jax_agree_with_tensorflow(
    config, tokens, randomized, tmp_path, jax_interpreter, objective
):
    labels = np.array([0, 1, 2, 0, 1, 2], np.int32)
    masked = np.random.default_rng(5).random((6, 16)) < 0.3
    inputs = {"tokens": tokens, "masked": masked}
    np.savez(tmp_path / "inputs.npz", labels=labels, **inputs)
    models = {
        "generative": randomized(ImageGPT(config, objective)),
        "classifier": randomized(ImageGPTClassifier(config, 3, objective)),
    }
    for name, model in models.items():
        model.save_to_preset(tmp_path / name)
    jax_interpreter.run(
        """
        import pathlib, sys, keras, numpy as np, igpt_keras
        assert keras.backend.backend() == "jax"
        folder = pathlib.Path(sys.argv[1])
        inputs = dict(np.load(folder / "inputs.npz"))
        labels = inputs.pop("labels")
        for name in ("generative", "classifier"):
            model = igpt_keras.load(folder / name)
            results = {"logits": np.asarray(model(inputs))}
            results["f1"] = np.asarray(model.features(inputs, 1))
            model.compile(keras.optimizers.SGD(0.1))
            y = labels if name == "classifier" else None
            results["loss"] = model.fit(inputs, y, verbose=0).history["loss"][0]
            evaluated = model.evaluate(inputs, y, verbose=0, return_dict=True)
            results["bits"] = evaluated["bits_per_pixel"]
            weights = {f"w{i}": w for i, w in enumerate(model.get_weights())}
            np.savez(folder / f"{name}.npz", **results, **weights)
        """,
        tmp_path,
    )
    for name, model in models.items():
        on_jax = np.load(tmp_path / f"{name}.npz")
        y = labels if name == "classifier" else None
        np.testing.assert_allclose(on_jax["logits"], model.predict(inputs, verbose=0), atol=1e-4)
        np.testing.assert_allclose(on_jax["f1"], model.features(inputs, 1), atol=1e-4)
        model.compile(keras.optimizers.SGD(0.1))
        history = model.fit(inputs, y, verbose=0).history
        np.testing.assert_allclose(on_jax["loss"], history["loss"][0], atol=1e-4)
        result = model.evaluate(inputs, y, verbose=0, return_dict=True)
        np.testing.assert_allclose(on_jax["bits"], result["bits_per_pixel"], atol=1e-4)
        for index, weight in enumerate(model.get_weights()):
            np.testing.assert_allclose(on_jax[f"w{index}"], weight, atol=1e-4)


@pytest.mark.slow
def test_bert_draws_fresh_masks_on_jax(config, tokens, tmp_path, jax_interpreter):
    np.save(tmp_path / "tokens.npy", tokens)
    jax_interpreter.run(
        """
        import pathlib, sys, keras, numpy as np, igpt_keras
        tokens = np.load(pathlib.Path(sys.argv[1]) / "tokens.npy")
        model = igpt_keras.ImageGPT(igpt_keras.ImageGPTConfig(4, 8, 16, 2, 2), "bert")
        model.compile(keras.optimizers.Adam(0.01))
        losses = model.fit(tokens, epochs=3, verbose=0).history["loss"]
        assert np.isfinite(losses).all(), losses
        evaluated = [model.evaluate(tokens, verbose=0)[0] for _ in range(2)]
        assert evaluated[0] != evaluated[1], evaluated
        """,
        tmp_path,
    )


@pytest.mark.slow
def test_every_block_is_recomputed_on_jax_in_training_and_evaluation(jax_interpreter):
    jax_interpreter.run(
        """
        import jax, keras, numpy as np, igpt_keras
        tokens = np.zeros((2, 16), np.int32)
        config = igpt_keras.ImageGPTConfig(4, 8, 16, 3, 2)
        for model in (igpt_keras.ImageGPT(config), igpt_keras.ImageGPTClassifier(config, 3)):
            model.compile(keras.optimizers.SGD(0.1), remat=True)
            trained = [v.value for v in model.trainable_variables]
            other = [v.value for v in model.non_trainable_variables]
            run = jax.make_jaxpr(lambda *state: model.stateless_call(*state, tokens)[0])
            steps = [equation.primitive.name for equation in run(trained, other).eqns]
            assert steps.count("checkpoint") + steps.count("remat2") == 3, steps
        labels = np.zeros(2, np.int32)
        model.fit(tokens, labels, validation_data=(tokens, labels), verbose=0)
        """,
    )


@pytest.mark.slow
def test_images_train_as_their_tokens_on_jax(jax_interpreter):
    jax_interpreter.run(
        """
        import keras, numpy as np, igpt_keras
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (6, 4, 4, 3)).astype("uint8")
        palette = igpt_keras.ColorPalette(generator.uniform(-1, 1, (8, 3)))
        config = igpt_keras.ImageGPTConfig(4, 8, 16, 2, 2)
        results = []
        for inputs in (images, palette.tokenize(images)):
            keras.utils.set_random_seed(0)
            model = igpt_keras.ImageGPT(config, tokenizer=palette)
            model.compile()
            model.fit(inputs, validation_data=(inputs, None), epochs=2, verbose=0)
            results.append([*model.get_weights(), model.predict(inputs, verbose=0)])
            results[-1].append(model.features(inputs, 1))
        for of_images, of_tokens in zip(*results, strict=True):
            np.testing.assert_array_equal(of_images, of_tokens)
        try:
            model.compile(micro_batches=2)
        except igpt_keras.InputError as error:
            assert "TensorFlow backend, got jax" in str(error), error
        else:
            raise AssertionError("micro_batches were ignored")
        """,
    )


@pytest.mark.slow
def test_hugging_face_folders_need_no_tensorflow(jax_interpreter):
    fixture = str(FIXTURES / "hf" / "causal")
    jax_interpreter.run(
        f"""
        import igpt_keras
        model = igpt_keras.load({fixture!r})
        assert model.tokenizer.vocabulary_size == 32
        """,
    )


@pytest.mark.slow
def test_the_quickstart_on_another_backend_says_what_it_needs(tmp_path):
    pytest.importorskip("jax")
    result = subprocess.run(
        [sys.executable, "-c", "from igpt_keras import cli; cli.main()", "quickstart"],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "quickstart needs KERAS_BACKEND=tensorflow, got jax" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_class_conditional_models_train_on_jax(
    config, tokens, tmp_path, randomized, jax_interpreter
):
    labels = np.arange(6) % 3
    model = randomized(ImageGPT(dataclasses.replace(config, num_classes=3), label_dropout=0.5))
    model.save_to_preset(tmp_path / "model")
    np.save(tmp_path / "tokens.npy", tokens)
    jax_interpreter.run(
        """
        import pathlib, sys, keras, jax, numpy as np, igpt_keras
        folder = pathlib.Path(sys.argv[1])
        tokens, labels = np.load(folder / "tokens.npy"), np.arange(6) % 3
        model = igpt_keras.load(folder / "model")
        model.compile(keras.optimizers.SGD(0.1))
        losses = {"whole": model.evaluate(tokens, labels, verbose=0)[0]}
        state = np.asarray(model.label_seed.state)
        dropped = np.asarray(keras.random.uniform((6,), seed=model.label_seed)) < 0.5
        assert 0 < dropped.sum() < 6
        model.label_seed.state.assign(state)
        losses["trained"] = model.fit(tokens, labels, verbose=0, shuffle=False).history["loss"][0]
        assert (np.asarray(model.label_seed.state) != state).any()
        np.savez(folder / "jax.npz", dropped=dropped, **losses)
        """,
        tmp_path,
    )
    on_jax = np.load(tmp_path / "jax.npz")
    model.compile(keras.optimizers.SGD(0.1))
    inputs = {"tokens": tokens, "labels": labels}
    np.testing.assert_allclose(on_jax["whole"], model.evaluate(inputs, verbose=0)[0], atol=1e-4)
    inputs["dropped"] = on_jax["dropped"]
    np.testing.assert_allclose(on_jax["trained"], model.evaluate(inputs, verbose=0)[0], atol=1e-4)
