import json
import re

import keras
import numpy as np
import pytest
from keras.quantizers import AbsMaxQuantizer, Int8QuantizationConfig

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTClassifier, InputError
from igpt_keras.convert import save_huggingface
from igpt_keras.sampling.samplers import Greedy

WEIGHT_ONLY = Int8QuantizationConfig(activation_quantizer=None)


@pytest.fixture
def model(config, palette, randomized):
    return randomized(ImageGPT(config, tokenizer=palette))


@pytest.fixture
def tokens(config):
    shape = (3, config.sequence_length)
    return np.random.default_rng(0).integers(0, config.vocabulary_size, shape).astype(np.int32)


def logits(model, tokens):
    return np.asarray(model(tokens))


def kernels(model):
    layers = [*model.backbone.projections().values(), model.token_head]
    return [keras.ops.convert_to_numpy(layer._kernel) for layer in layers]


def rounded(kernel):
    """Symmetric int8 for each column, as a float matrix."""
    scale = np.abs(kernel).max(axis=0) / 127
    return np.round(kernel / scale) * scale


def test_int8_weights_compute_what_rounded_weights_do(model, tokens):
    expected = [rounded(kernel) for kernel in kernels(model)]
    reference = keras.models.clone_model(model)
    reference.set_weights(model.get_weights())
    for layer, kernel in zip(
        [*reference.backbone.projections().values(), reference.token_head], expected, strict=True
    ):
        layer.kernel.assign(kernel)
    exact = logits(model, tokens)
    model.quantize(config=WEIGHT_ONLY)
    assert {kernel.dtype for kernel in kernels(model)} == {np.dtype("int8")}
    np.testing.assert_allclose(logits(model, tokens), logits(reference, tokens), atol=1e-4)
    assert np.abs(logits(model, tokens) - exact).max() > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"mode": "int8"}, id="int8"),
        pytest.param(
            {"mode": "int8", "filters": r"(up_proj|down_proj)"},
            id="some layers",
            marks=pytest.mark.slow,
        ),
        pytest.param({"config": WEIGHT_ONLY}, id="weights only", marks=pytest.mark.slow),
        pytest.param({"mode": "int4"}, id="int4", marks=pytest.mark.slow),
    ],
)
def test_folders_and_files_keep_a_quantized_model(model, tokens, tmp_path, settings):
    model.quantize(**settings)
    expected = logits(model, tokens)
    model.save_to_preset(tmp_path / "model")
    model.save(tmp_path / "model.keras")
    loaded = [
        igpt_keras.load(tmp_path / "model"),
        ImageGPT.from_preset(tmp_path / "model", name="another"),
        igpt_keras.load(tmp_path / "model.keras"),
    ]
    for each in loaded:
        np.testing.assert_array_equal(logits(each, tokens), expected)
        assert [k.dtype for k in kernels(each)] == [k.dtype for k in kernels(model)]
    assert json.dumps(loaded[0].get_config()) == json.dumps(model.get_config())


@pytest.mark.slow
def test_folders_keep_a_quantized_classifier(config, palette, randomized, tokens, tmp_path):
    model = randomized(ImageGPTClassifier(config, 3, tokenizer=palette, dtype="mixed_bfloat16"))
    model.quantize("int8")
    model.save_to_preset(tmp_path / "model")
    loaded = igpt_keras.load(tmp_path / "model")
    assert loaded.class_head.quantization_mode == "int8"
    assert loaded.backbone.compute_dtype == "bfloat16"
    np.testing.assert_array_equal(logits(loaded, tokens), logits(model, tokens))


@pytest.mark.slow
def test_a_quantized_model_generates_what_its_scores_say(model, tokens):
    images = model.tokenizer.detokenize(tokens)
    settings = {"keep_rows": 2, "sampler": Greedy(), "seed": 0}
    before = model.generate(images, **settings)
    model.quantize("int8")
    after = model.generate(images, **settings)
    assert not np.array_equal(before.log_likelihood, after.log_likelihood)
    scores = model.score(after.images[:, 0])
    np.testing.assert_allclose(after.total_log_likelihood[:, 0], scores, rtol=1e-2)


def test_what_needs_exact_weights_refuses_a_quantized_model(model, tmp_path):
    model.quantize("int8")
    model.save_to_preset(tmp_path / "model")
    for call in (
        lambda: model.with_classes(3),
        lambda: ImageGPTClassifier.from_preset(model, 3),
        lambda: save_huggingface(model, tmp_path / "converted"),
    ):
        with pytest.raises(InputError, match="floating-point weights, got a quantized model"):
            call()
    with pytest.raises(InputError, match="whose dtype cannot change, got dtype='bfloat16'"):
        igpt_keras.load(tmp_path / "model", dtype="bfloat16")


def test_adapters_and_quantized_weights_exclude_each_other(config, randomized):
    classifier = randomized(ImageGPTClassifier(config, 3))
    classifier.enable_lora(2)
    with pytest.raises(InputError, match="merge_lora"):
        classifier.quantize("int8")
    classifier.merge_lora()
    classifier.quantize("int8")
    with pytest.raises(InputError, match="got a quantized model"):
        classifier.enable_lora(2)


def test_what_no_folder_could_describe_is_not_written(model, tmp_path):
    rounding = AbsMaxQuantizer(axis=0, value_range=(-15, 15), output_dtype="int8")
    model.quantize("int8", filters="qkv")
    coarse = Int8QuantizationConfig(weight_quantizer=rounding)
    model.quantize(config=coarse, filters="up_proj")
    with pytest.raises(InputError, match="2 of them"):
        model.save_to_preset(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda policy: policy.update(class_name="Lambda"),
        lambda policy: policy.update(module="keras_of_others"),
        lambda policy: policy.update(registered_name="x>DTypePolicy"),
    ],
)
def test_a_folder_cannot_name_other_objects(model, tmp_path, change):
    model.quantize("int8")
    file = model.save_to_preset(tmp_path / "model") / "igpt.json"
    description = json.loads(file.read_text())
    change(description["settings"]["dtype"]["config"]["policy_map"]["token_head"])
    file.write_text(json.dumps(description))
    with pytest.raises(InputError, match=re.escape(f"{file}: it may have objects of")):
        igpt_keras.load(tmp_path / "model")
