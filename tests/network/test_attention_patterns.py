"""Attention patterns: masked attention against NumPy, and models that have a pattern."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTClassifier, ImageGPTConfig, InputError
from igpt_keras.convert import save_huggingface
from igpt_keras.network import attention, attention_patterns
from igpt_keras.network.attention import dot_product_attention
from igpt_keras.network.attention_patterns import AttentionPattern, register_attention_pattern
from igpt_keras.network.attention_patterns.dense import DENSE
from igpt_keras.network.initial_weights import initial_weights
from igpt_keras.network.layers import Block
from igpt_keras.sampling.decoder import decode_step, grow, prefill

LENGTH = 16


@register_attention_pattern("test window")
@dataclasses.dataclass(frozen=True)
class Window(AttentionPattern):
    """A position sees those less than `width` away."""

    width: int

    @classmethod
    def for_block(cls, config, block):
        return cls(width=2 + block)

    def visible(self, query_positions, key_positions):
        return ops.abs(query_positions - key_positions) < self.width


@register_attention_pattern("test nothing")
@dataclasses.dataclass(frozen=True)
class Nothing(AttentionPattern):
    """A position sees only itself, which no pattern can hide."""

    def visible(self, query_positions, key_positions):
        return ops.zeros_like(key_positions, dtype="bool")


def window_mask(length, width, causal):
    """bool [n, n], position by position."""
    return np.array(
        [
            [abs(q - k) < width and not (causal and k > q) for k in range(length)]
            for q in range(length)
        ]
    )


def masked_attention(query, key, value, mask):
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


@pytest.fixture
def arrays():
    """Query, key, value and a gradient for the result."""
    return np.random.default_rng(3).normal(0, 1.5, (4, 2, 15, 3, 4))


class TestAttention:
    @pytest.fixture(autouse=True)
    def _small_blocks(self, monkeypatch):
        monkeypatch.setattr(attention, "QUERY_BLOCK_SIZE", 4)

    @pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
    @pytest.mark.parametrize("width", [1, 3, 7, 15])
    def test_attention_and_its_gradients(self, arrays, causal, width):
        mask = window_mask(15, width, causal)
        expected = with_gradients(lambda *x: masked_attention(*x, mask), arrays, "float64")
        actual = with_gradients(lambda *x: Window(width).attend(*x, causal), arrays, "float32")
        for ours, theirs in zip(actual, expected, strict=True):
            # Of a position that sees only itself, the gradients of query and key are 0.
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, np.abs(theirs).max()))

    @pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
    def test_a_length_known_only_in_the_graph(self, arrays, causal):
        signature = [tf.TensorSpec([None, None, 3, 4])] * 3
        attend = tf.function(lambda *x: Window(3).attend(*x, causal), input_signature=signature)
        inputs = arrays[:3].astype(np.float32)
        expected = masked_attention(*inputs, window_mask(15, 3, causal))
        np.testing.assert_allclose(attend(*inputs), expected, atol=1e-5)

    def test_a_position_sees_itself_whatever_the_pattern(self, arrays):
        query, key, value = arrays[:3].astype(np.float32)
        for causal in (False, True):
            attended = Nothing().attend(query, key, value, causal)
            np.testing.assert_allclose(attended, value, atol=1e-6)

    @pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_dense_attention_has_the_bits_of_a_plain_block_wise_kernel(self, arrays, causal, dtype):
        query, key, value = tf.cast(arrays[:3], dtype)
        parts, length = [], query.shape[1]
        for start in range(0, length, 4):
            stop = min(start + 4, length)
            seen = stop if causal else length
            scaled = tf.transpose(query * 0.5, [0, 2, 1, 3])[:, :, start:stop]
            keys, values = (tf.transpose(x, [0, 2, 1, 3])[:, :, :seen] for x in (key, value))
            scores = tf.cast(tf.matmul(scaled, keys, transpose_b=True), tf.float32)
            if causal:
                scores -= 1e30 * tf.cast(
                    tf.range(seen)[None] > tf.range(start, stop)[:, None], tf.float32
                )
            parts.append(tf.matmul(tf.cast(tf.nn.softmax(scores), dtype), values))
        expected = tf.transpose(tf.concat(parts, axis=2), [0, 2, 1, 3])
        for attended in (
            dot_product_attention(query, key, value, causal),
            DENSE.attend(query, key, value, causal),
        ):
            np.testing.assert_array_equal(
                tf.cast(attended, tf.float32), tf.cast(expected, tf.float32)
            )

    @pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
    def test_dense_attention_asks_for_no_mask(self, causal):
        positions = ops.arange(5)
        hidden = DENSE.hidden(positions, positions, causal)
        assert hidden is None or np.array_equal(hidden, ~np.tri(5, dtype=bool))
        assert (hidden is None) == (not causal)

    def test_a_block_keeps_its_pattern(self):
        block = Block(2, True, False, initial_weights("image_gpt", 8, 1), Window(3))
        serialized = json.loads(json.dumps(keras.saving.serialize_keras_object(block)))
        again = keras.saving.deserialize_keras_object(serialized)
        assert again.attention.pattern == Window(3)
        assert again.get_config() == block.get_config()
        attended = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(block.attention)
        )
        assert attended.pattern == Window(3)


def receptive_field(depth, causal, length=LENGTH):
    """bool [n, n]: what reaches an input of the head through blocks of widths 2, 3, …"""
    reach = np.eye(length, dtype=bool)
    for block in range(depth):
        reach = window_mask(length, 2 + block, causal) @ reach
    return reach


@pytest.fixture
def windowed(config):
    """Windows of 2 and 3 positions in the two blocks."""
    return dataclasses.replace(config, attention="test window")


@pytest.fixture
def model(windowed, palette, randomized):
    return randomized(ImageGPT(windowed, tokenizer=palette))


class TestModel:
    def test_the_name_is_checked_and_kept(self, config, windowed):
        assert config.attention == "dense"
        assert windowed.to_dict()["attention"] == "test window"
        assert ImageGPTConfig(**json.loads(json.dumps(windowed.to_dict()))) == windowed
        with pytest.raises(
            InputError, match="attention pattern must be one of dense, .*test window, got 'oval'"
        ):
            dataclasses.replace(config, attention="oval")

    def test_each_block_has_a_pattern_of_its_own(self, model):
        patterns = [block.attention.pattern for block in model.backbone.blocks]
        assert patterns == [Window(2), Window(3)]

    @pytest.mark.parametrize("objective", ["ar", "bert"])
    def test_a_token_acts_only_where_the_pattern_lets_it(
        self, windowed, tokens, randomized, objective
    ):
        model = randomized(ImageGPT(windowed, objective))
        inputs = {"tokens": tokens[:1], "masked": np.zeros((1, LENGTH), bool)}
        before = ops.convert_to_numpy(model(inputs))[0]
        reach = receptive_field(2, causal=objective == "ar")
        for position in range(LENGTH):
            changed = tokens[:1].copy()
            changed[0, position] = (changed[0, position] + 1) % 8
            after = ops.convert_to_numpy(model({**inputs, "tokens": changed}))[0]
            # An autoregressive model sees the token at the next position.
            seen_at = position + 1 if objective == "ar" else position
            reached = reach[:, seen_at] if seen_at < LENGTH else np.zeros(LENGTH, bool)
            np.testing.assert_array_equal((before != after).any(axis=-1), reached)

    @pytest.mark.parametrize("jit_compile", [False, True])
    @pytest.mark.parametrize(
        ("prefix", "counts"), [(0, [1] * LENGTH), (5, [4, 4, 3]), (15, [1]), (LENGTH, [])]
    )
    def test_cached_logits_are_those_of_the_full_pass(
        self, model, tokens, prefix, counts, jit_compile
    ):
        expected = ops.convert_to_numpy(model(tokens))
        step = tf.function(
            lambda tokens, start, caches: decode_step(model, tokens, start, caches),
            jit_compile=jit_compile,
        )
        logits, caches = prefill(model, tf.constant(tokens[:, :prefix]))
        caches, parts, start = grow(caches, LENGTH), [logits], prefix
        for count in counts:
            previous = tf.constant(tokens[:, np.arange(start - 1, start - 1 + count)])
            logits, caches = step(previous, tf.constant(start), caches)
            parts.append(logits)
            start += count
        np.testing.assert_allclose(tf.concat(parts, axis=1), expected, atol=1e-5)

    @pytest.mark.slow
    def test_generated_images_have_the_log_likelihood_of_the_full_pass(
        self, model, windowed, palette, randomized
    ):
        images = np.random.default_rng(7).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
        draft = randomized(ImageGPT(windowed, tokenizer=palette), seed=5)
        plain = model.generate(images, keep_rows=1, seed=2)
        scores = model.score(palette.detokenize(plain.tokens[:, 0]), per_pixel=True)
        generated = scores[:, 1:].sum(axis=(1, 2))
        np.testing.assert_allclose(plain.log_likelihood[:, 0], generated, atol=1e-4)
        guessed = model.generate(images, keep_rows=1, seed=2, draft=draft)
        np.testing.assert_array_equal(guessed.tokens, plain.tokens)
        np.testing.assert_allclose(guessed.log_likelihood, plain.log_likelihood, atol=1e-4)

    @pytest.mark.parametrize("kind", ["folder", ".keras"])
    @pytest.mark.parametrize("make", [ImageGPT, lambda config: ImageGPTClassifier(config, 3)])
    def test_saved_models_keep_their_pattern(
        self, windowed, tokens, randomized, tmp_path, make, kind
    ):
        model = randomized(make(windowed))
        path = tmp_path / f"model{kind if kind == '.keras' else ''}"
        model.save(path) if kind == ".keras" else model.save_to_preset(path)
        again = igpt_keras.load(path)
        assert again.config == windowed
        np.testing.assert_array_equal(again(tokens), model(tokens))

    def test_a_description_without_a_pattern_is_dense(self, config, tokens, randomized, tmp_path):
        model = randomized(ImageGPT(config))
        file = model.save_to_preset(tmp_path / "model") / "igpt.json"
        description = json.loads(file.read_text())
        assert description["settings"]["config"].pop("attention") == "dense"
        file.write_text(json.dumps(description))
        again = igpt_keras.load(tmp_path / "model")
        assert again.config == config
        np.testing.assert_array_equal(again(tokens), model(tokens))

    def test_a_description_with_an_unknown_pattern_is_refused(self, model, tmp_path):
        file = model.save_to_preset(tmp_path / "model") / "igpt.json"
        file.write_text(file.read_text().replace("test window", "oval"))
        with pytest.raises(InputError, match=r"igpt.json: attention pattern must be one of dense"):
            igpt_keras.load(tmp_path / "model")

    def test_hugging_face_has_no_such_model(self, model, tmp_path):
        with pytest.raises(InputError, match='dense attention only, .*="test window"'):
            save_huggingface(model, tmp_path / "model")
        assert not list(tmp_path.iterdir())

    @pytest.mark.slow
    def test_training_goes_down_on_every_path(self, windowed, tokens):
        losses = {}
        for remat in (False, True):
            keras.utils.set_random_seed(0)
            model = ImageGPT(windowed)
            model.compile(keras.optimizers.Adam(0.01), remat=remat)
            losses[remat] = model.fit(tokens, epochs=5, verbose=0).history["loss"]
        assert losses[True][-1] < losses[True][0] - 0.1
        np.testing.assert_allclose(losses[True], losses[False], rtol=1e-4)

    @pytest.mark.slow
    def test_jax_agrees_with_tensorflow(
        self, windowed, tokens, randomized, tmp_path, jax_interpreter
    ):
        expected = {}
        for objective in ("ar", "bert"):
            model = randomized(ImageGPT(windowed, objective))
            model.save_to_preset(tmp_path / objective)
            inputs = {"tokens": tokens, "masked": np.zeros(tokens.shape, bool)}
            expected[objective] = ops.convert_to_numpy(model(inputs))
        np.save(tmp_path / "tokens.npy", tokens)
        jax_interpreter.run(
            f"""
            import dataclasses, pathlib, sys, numpy as np, igpt_keras
            from keras import ops
            from igpt_keras.network.attention_patterns import (
                AttentionPattern, register_attention_pattern
            )

            @register_attention_pattern({Window.name!r})
            @dataclasses.dataclass(frozen=True)
            class Window(AttentionPattern):
                width: int

                @classmethod
                def for_block(cls, config, block):
                    return cls(width=2 + block)

                def visible(self, query_positions, key_positions):
                    return ops.abs(query_positions - key_positions) < self.width

            folder = pathlib.Path(sys.argv[1])
            tokens = np.load(folder / "tokens.npy")
            for objective in ("ar", "bert"):
                model = igpt_keras.load(folder / objective)
                inputs = {{"tokens": tokens, "masked": np.zeros(tokens.shape, bool)}}
                np.save(folder / f"{{objective}}.npy", np.asarray(model(inputs)))
            """,
            tmp_path,
        )
        for objective, logits in expected.items():
            np.testing.assert_allclose(np.load(tmp_path / f"{objective}.npy"), logits, atol=1e-4)


def test_the_example_of_the_module_runs():
    code = attention_patterns.__doc__.split("```python\n")[1].split("```")[0]
    scope: dict = {}
    exec(code, scope)
    config = ImageGPTConfig(4, 8, 16, 1, 2, attention="window")
    assert ImageGPT(config).backbone.blocks[0].attention.pattern == scope["Window"](width=4)
