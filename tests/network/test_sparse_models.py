"""Models with the Sparse Transformer's attention: options, causality, decoding, training."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTConfig, InputError
from igpt_keras.convert import save_huggingface
from igpt_keras.network.attention_patterns.fixed import Fixed
from igpt_keras.network.attention_patterns.strided import Strided
from igpt_keras.sampling.decoder import decode_step, grow, prefill
from serving import export
from serving.server.operations import check_operations
from tests.network.test_sparse_attention import closed_form
from tests.serving.test_export import TF1Model, completion_inputs, single_seed

LENGTH = 16  # of 4 × 4 tokens, in two blocks of two heads
MODELS = {
    "strided": {"attention": "strided"},
    "strided, merged": {"attention": "strided", "attention_layers": ("merged",), "stride": 2},
    "strided, column first": {"attention": "strided", "attention_layers": ("column", "local")},
    "fixed": {"attention": "fixed"},
    "fixed, merged": {"attention": "fixed", "attention_layers": ("merged",), "summary": 2},
    "fixed, wide": {"attention": "fixed", "stride": 8, "summary": 3, "axial_positions": True},
}


# The others take the same ways through the code.
FIRST = ("strided", "fixed, wide")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name in FIRST else pytest.mark.slow) for name in MODELS],
)
def sparse(request, config):
    return dataclasses.replace(config, **MODELS[request.param])


def receptive_field(config, causal):
    """bool [n, n]: which positions of the input reach each state after the last block."""
    reach = np.eye(LENGTH, dtype=bool)
    for block in range(config.num_layers):
        pattern = config.pattern(block)
        mask = closed_form(
            config.attention,
            pattern.layer,
            causal,
            LENGTH,
            pattern.stride,
            getattr(pattern, "summary", 1),
            config.num_heads,
        )
        reach = mask.any(axis=0) @ reach
    return reach


class TestOptions:
    def test_rows_are_those_of_the_image_and_layers_take_turns(self, config):
        strided = dataclasses.replace(config, attention="strided", num_layers=3)
        layers = [strided.pattern(block) for block in range(3)]
        assert layers == [Strided(4, "local"), Strided(4, "column"), Strided(4, "local")]
        model = ImageGPT(strided)
        assert [block.attention.pattern for block in model.backbone.blocks] == layers
        wide = dataclasses.replace(strided, grid=(4, 12))
        assert wide.pattern(0) == Strided(12, "local")

    def test_published_order_of_cifar10(self, config):
        order = ("column", "local", "local", "local")
        model = dataclasses.replace(config, attention="strided", attention_layers=list(order))
        assert [model.pattern(block).layer for block in range(8)] == [*order, *order]

    def test_heads_of_fixed_have_distinct_summaries_from_the_end_of_a_row_on(self, config):
        fixed = dataclasses.replace(config, attention="fixed", image_size=32, num_heads=4)
        pattern = fixed.pattern(1)
        assert pattern == Fixed(32, 4, 4, "summary")
        assert pattern.starts.tolist() == [28, 24, 20, 16]
        assert Fixed(8, 3, 5, "summary").starts.tolist() == [5, 2, 5, 2, 5]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"attention": "oval"}, "attention pattern must be one of dense, fixed, .* got 'oval'"),
            (
                {"attention": "strided", "stride": 3},
                "stride must divide the number of tokens, 16, got 3; "
                "a row of this model's tokens has 4",
            ),
            (
                {"attention": "fixed", "summary": 5},
                "summary must be at most stride=4, of which it is a part; got 5",
            ),
            ({"attention": "fixed", "summary": 0}, "summary must be a positive integer, got 0"),
            ({"attention": "fixed", "stride": 2.0}, "stride must be a positive integer, got 2.0"),
            ({"stride": 4}, 'stride must be None with attention="dense", got 4'),
            (
                {"attention": "strided", "summary": 2},
                'summary must be None with attention="strided", got 2',
            ),
            (
                {"attention": "strided", "attention_layers": ("local", "summary")},
                'attention_layers must name layers of attention="strided", which are local, '
                "column, merged; got 'local', 'summary'",
            ),
            (
                {"attention": "fixed", "attention_layers": "local"},
                r"attention_layers must hold names of layers, such as \(.*\), got 'local'",
            ),
            ({"attention": "fixed", "attention_layers": ()}, r"attention_layers .*, got \(\)"),
            ({"axial_positions": 1}, "axial_positions must be True or False, got 1"),
            (
                {"initializer": "he"},
                "initializer must be one of image_gpt, sparse_transformer, got 'he'",
            ),
        ],
    )
    def test_options_that_do_not_fit_are_named(self, config, changes, message):
        with pytest.raises(InputError, match=f"^{message}$"):
            ImageGPTConfig(**{**config.to_dict(), **changes})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"attention": "strided"},
                'dense attention only, got a model with attention="strided"',
            ),
            ({"axial_positions": True}, "an embedding for each position, .*axial_positions=True"),
        ],
    )
    def test_hugging_face_has_no_such_model(self, config, tmp_path, options, message):
        model = ImageGPT(dataclasses.replace(config, **options))
        with pytest.raises(InputError, match=f"Hugging Face's ImageGPT has {message}"):
            save_huggingface(model, tmp_path / "model")
        assert not list(tmp_path.iterdir())

    def test_saved_models_keep_their_options(self, sparse, tokens, randomized, tmp_path):
        model = randomized(ImageGPT(sparse))
        assert model.count_params() == sparse.parameter_count()
        again = igpt_keras.load(model.save_to_preset(tmp_path / "model"))
        assert again.config == sparse
        np.testing.assert_array_equal(again(tokens), model(tokens))

    def test_models_of_an_earlier_name_load(self, config, tokens, randomized, tmp_path):
        model = randomized(ImageGPT(config))
        file = model.save_to_preset(tmp_path / "model") / "igpt.json"
        description = json.loads(file.read_text())
        fields = description["settings"]["config"]
        for name in ("stride", "summary", "attention_layers", "axial_positions", "initializer"):
            del fields[name]
        fields["attention_pattern"] = fields.pop("attention")
        file.write_text(json.dumps(description))
        again = igpt_keras.load(tmp_path / "model")
        assert again.config == config
        np.testing.assert_array_equal(again(tokens), model(tokens))


class TestWeights:
    def test_axial_positions_are_sums_of_a_row_and_a_column(self, config, tokens, randomized):
        axial = dataclasses.replace(config, grid=(2, 8), axial_positions=True)
        embedding = randomized(ImageGPT(axial)).backbone.embedding
        rows, columns = np.asarray(embedding.row_embedding), np.asarray(embedding.column_embedding)
        assert rows.shape == (2, 16) and columns.shape == (8, 16)
        content = np.asarray(embedding.token_embedding)[tokens]
        content = np.roll(content, 1, axis=1)
        content[:, 0] = embedding.start_vector
        expected = content + (rows[:, None] + columns).reshape(16, 16)
        np.testing.assert_allclose(embedding(tokens), expected, atol=1e-6)
        previous = np.roll(tokens, 1, axis=1)
        for start, count in ((0, 3), (5, 1), (7, 9)):
            step = embedding.step(previous[:, start : start + count], start)
            np.testing.assert_allclose(step, expected[:, start : start + count], atol=1e-6)

    def test_initial_weights_of_the_sparse_transformer(self, config):
        sizes = {"hidden_dim": 64, "num_layers": 8, "vocabulary_size": 512, "image_size": 64}
        options = {"initializer": "sparse_transformer", "axial_positions": True}
        model = ImageGPT(dataclasses.replace(config, **sizes, **options))
        residual = 1 / np.sqrt(2 * 8)
        expected = {
            "token_embedding": 0.125 / np.sqrt(64),
            "row_embedding": 0.125 / np.sqrt(64 * 2),
            "column_embedding": 0.125 / np.sqrt(64 * 2),
            "qkv/kernel": np.sqrt(0.125 / 64),
            "output_proj/kernel": np.sqrt(0.125 / 64) * residual,
            "up_proj/kernel": np.sqrt(0.125 / 64),
            "down_proj/kernel": np.sqrt(0.125 / 256) * residual,
            "token_head/kernel": 0,
        }
        found = {name: [] for name in expected}
        for weight in model.weights:
            for name in expected:
                if weight.path.endswith(name):
                    found[name].append(ops.convert_to_numpy(weight).ravel())
        for name, deviation in expected.items():
            values = np.concatenate(found[name])
            # Six standard errors.
            assert abs(values.std() - deviation) <= 6 * deviation / np.sqrt(2 * len(values)), name
            assert abs(values.mean()) <= 6 * deviation / np.sqrt(len(values)), name


@pytest.mark.parametrize("objective", ["ar", "bert"])
def test_a_token_acts_only_where_the_patterns_let_it(sparse, tokens, randomized, objective):
    model = randomized(ImageGPT(sparse, objective))
    inputs = {"tokens": tokens[:1], "masked": np.zeros((1, LENGTH), bool)}
    # Every token changed by itself, in one batch.
    changed = np.repeat(tokens[:1], LENGTH, axis=0)
    changed[np.diag_indices(LENGTH)] = (changed[np.diag_indices(LENGTH)] + 1) % 8
    before = ops.convert_to_numpy(model(inputs))
    after = model({"tokens": changed, "masked": np.zeros((LENGTH, LENGTH), bool)})
    differs = np.abs(ops.convert_to_numpy(after) - before).max(axis=-1) > 1e-6
    reach = receptive_field(sparse, causal=objective == "ar")
    # An autoregressive model sees a token at the next position.
    shift = 1 if objective == "ar" else 0
    expected = np.zeros((LENGTH, LENGTH), bool)
    expected[: LENGTH - shift] = reach.T[shift:]
    np.testing.assert_array_equal(differs, expected)


@pytest.mark.parametrize(
    "way", ["any count", *(pytest.param(way, marks=pytest.mark.slow) for way in ("one", "xla"))]
)
def test_cached_logits_are_those_of_the_full_pass(sparse, tokens, randomized, way):
    """In a graph for any number of tokens, in one for a token at a time, and with XLA."""
    jit_compile = way == "xla"
    model = randomized(ImageGPT(sparse))
    expected = ops.convert_to_numpy(model(tokens))
    cache = tf.TensorSpec([None, None, sparse.head_dim])
    count = tf.TensorSpec([None, 1 if way == "one" else None], tf.int32)
    specs = [count, tf.TensorSpec([], tf.int32), [(cache, cache)] * sparse.num_layers]
    step = tf.function(
        lambda tokens, start, caches: decode_step(model, tokens, start, caches),
        jit_compile=jit_compile,
        # XLA compiles for every shape.
        input_signature=None if jit_compile else specs,
    )
    several = [] if way == "one" else [(5, [4, 4, 3])]
    for prefix, counts in [(0, [1] * LENGTH), *several, (LENGTH, [])]:
        logits, caches = prefill(model, tf.constant(tokens[:, :prefix]))
        parts, start = [logits], prefix
        for count in counts:
            # Caches have just the room that they need, or their full size.
            caches = grow(caches, LENGTH if jit_compile else start + count)
            previous = tf.constant(tokens[:, np.arange(start - 1, start - 1 + count)])
            logits, caches = step(previous, tf.constant(start), caches)
            parts.append(logits)
            start += count
        np.testing.assert_allclose(tf.concat(parts, axis=1), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["strided", "fixed", "strided, merged", "fixed, merged"])
def test_completions_have_the_likelihood_of_the_full_pass_whatever_the_mask_and_the_draft(
    config, palette, randomized, name
):
    sparse = dataclasses.replace(config, **MODELS[name])
    model = randomized(ImageGPT(sparse, tokenizer=palette))
    draft = randomized(ImageGPT(sparse, tokenizer=palette), seed=5)
    images = np.random.default_rng(7).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    rows = np.broadcast_to(np.arange(4)[:, None], (3, 4, 4))
    scattered = np.random.default_rng(8).random((3, 4, 4)) < 0.4
    for known in (rows < 1, rows < 0, scattered):
        plain = model.generate(images, known_mask=known, seed=2)
        scores = model.score(palette.detokenize(plain.tokens[:, 0]), per_pixel=True)
        expected = np.where(known, 0, scores).sum(axis=(1, 2))
        np.testing.assert_allclose(plain.log_likelihood[:, 0], expected, atol=1e-4)
        guessed = model.generate(images, known_mask=known, seed=2, draft=draft)
        np.testing.assert_array_equal(guessed.tokens, plain.tokens)
        np.testing.assert_allclose(guessed.log_likelihood, plain.log_likelihood, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("strided, merged", "ar"),
        ("fixed, wide", "ar"),
        ("strided", "bert"),
        ("fixed, merged", "bert"),
    ],
)
def test_training_is_the_same_on_every_path(config, tokens, name, objective):
    """The last batch has fewer images, so that the size of a batch is not fixed."""
    sparse = dataclasses.replace(config, **MODELS[name])
    images = {"tokens": tokens, "masked": (np.arange(LENGTH) + np.arange(6)[:, None]) % 3 == 0}
    losses = {}
    for path in ("plain", "remat", "xla", "mixed"):
        keras.utils.set_random_seed(0)
        model = ImageGPT(sparse, objective, dtype="mixed_bfloat16" if path == "mixed" else None)
        model.compile(
            keras.optimizers.Adam(0.01),
            remat=path == "remat",
            jit_compile=path == "xla",
        )
        history = model.fit(images, batch_size=4, epochs=4, shuffle=False, verbose=0).history
        losses[path] = history["loss"]
    plain = losses.pop("plain")
    assert plain[-1] < plain[0] - 0.05
    for path, others in losses.items():
        rtol = 0.02 if path == "mixed" else 1e-4
        np.testing.assert_allclose(others, plain, rtol=rtol, err_msg=path)


@pytest.mark.slow
def test_jax_trains_as_tensorflow_does(tokens, config, tmp_path, jax_interpreter):
    losses = {}
    np.save(tmp_path / "tokens.npy", tokens)
    for name in ("strided", "strided, merged", "fixed, wide"):
        keras.utils.set_random_seed(0)
        model = ImageGPT(dataclasses.replace(config, **MODELS[name]))
        model.save_to_preset(tmp_path / name)
        model.compile(keras.optimizers.Adam(0.01))
        losses[name] = model.fit(tokens, epochs=4, shuffle=False, verbose=0).history["loss"]
    printed = jax_interpreter.run(
        """
        import json, pathlib, sys, keras, numpy as np, igpt_keras
        folder, losses = pathlib.Path(sys.argv[1]), {}
        tokens = np.load(folder / "tokens.npy")
        for path in folder.glob("*/igpt.json"):
            losses[path.parent.name] = []
            for remat in (False, True):
                model = igpt_keras.load(path.parent)
                model.compile(keras.optimizers.Adam(0.01), remat=remat)
                history = model.fit(tokens, epochs=4, shuffle=False, verbose=0).history
                losses[path.parent.name].append(history["loss"])
        print(json.dumps(losses))
        """,
        tmp_path,
    )
    for name, on_jax in json.loads(printed).items():
        for each in on_jax:
            np.testing.assert_allclose(each, losses[name], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["strided", "fixed", "fixed, merged"])
def test_an_export_completes_in_a_session_with_operations_that_a_server_accepts(
    config, palette, randomized, tmp_path, name
):
    model = randomized(ImageGPT(dataclasses.replace(config, **MODELS[name]), tokenizer=palette))
    export(model, tmp_path / "served")
    assert check_operations(tmp_path / "served") == [1]
    images = np.random.default_rng(7).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    inputs = completion_inputs(images, keep_rows=2, seed=[single_seed(seed) for seed in (5, 6, 7)])
    outputs = TF1Model(tmp_path / "served" / "1").run("complete", **inputs)
    expected = model.generate(images, keep_rows=2, seed=5)
    np.testing.assert_array_equal(outputs["tokens"], expected.tokens[:, 0])
