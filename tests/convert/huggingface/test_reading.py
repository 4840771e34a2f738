import dataclasses
import json
import sys

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from igpt_keras import ImageGPT, ImageGPTClassifier, ImageGPTConfig, InputError
from igpt_keras.convert import read_huggingface
from tests.convert.huggingface.files import (
    CAUSAL,
    CLASSIFICATION,
    TOLERANCE,
    WEIGHTS,
    edit_json,
    edit_tensors,
    largest_deviation,
    load_huggingface,
    numpy,
    start_first,
)


class TestLoad:
    def test_sizes(self, causal, reference):
        assert type(causal) is ImageGPT
        assert causal.objective == "ar"
        assert causal.config == ImageGPTConfig(8, 32, 48, 3, 4)  # All biases are zero.
        assert np.array_equal(causal.tokenizer.colors, reference["clusters"])

    def test_logits(self, causal, reference):
        """Its input is ours with the start token in front; its answer is ours."""
        assert np.array_equal(reference["input_ids"], start_first(causal, reference["tokens"]))
        assert largest_deviation(causal(reference["tokens"]), reference["logits"]) < TOLERANCE

    def test_hidden_states(self, causal, reference):
        states = causal.backbone.hidden_states({"tokens": reference["tokens"]})
        # Transformers gives the last one after the final norm.
        states[-1] = causal.backbone.final_norm(states[-1])
        assert len(states) == len(reference["hidden_states"])
        for ours, theirs in zip(states, reference["hidden_states"], strict=True):
            assert largest_deviation(ours, theirs) < TOLERANCE

    def test_class_logits(self, classifier, reference):
        """For an image's tokens, as Transformers' documentation and pipeline pass them."""
        assert type(classifier) is ImageGPTClassifier
        assert classifier.generative_weight == 0
        assert classifier.tokenizer is None
        assert classifier.class_names == [f"LABEL_{i}" for i in range(10)]
        logits = classifier(reference["tokens"])
        assert largest_deviation(logits, reference["class_logits_without_start"]) < TOLERANCE
        assert largest_deviation(logits, reference["class_logits"]) > 1e-2

    def test_class_logits_of_a_shifted_input(self, reference):
        """The recorded logits of tokens behind a start token are those of the paper's network."""
        stored = read_huggingface(CLASSIFICATION)
        shifted = stored.build(ImageGPTClassifier, shift_right=True)
        logits = shifted(reference["tokens"])
        assert largest_deviation(logits, reference["class_logits"]) < TOLERANCE

    def test_biases(self, causal_copy, reference, causal):
        """One bias in a block is as good as the same shift of the kernel's outputs."""
        name = "transformer.h.1.mlp.c_proj.bias"
        edit_tensors(causal_copy / WEIGHTS, {name: np.full(48, 0.5, np.float32)})
        model = load_huggingface(causal_copy)
        assert model.config == dataclasses.replace(causal.config, use_bias=True)
        before, after = (
            m.backbone.hidden_states({"tokens": reference["tokens"]}) for m in (causal, model)
        )
        assert np.abs(numpy(after[2]) - numpy(before[2]) - 0.5).max() < 1e-5

    def test_greedy_continuation(self, causal, reference):
        """Given its continuation, ours would have chosen each of its tokens as well."""
        prefix, chosen = int(reference["greedy_prefix"]), reference["greedy_ids"]
        tokens = np.concatenate([chosen[:, 1:], np.zeros_like(chosen[:, :1])], axis=1)
        assert np.array_equal(start_first(causal, tokens), chosen)
        greedy = numpy(causal(tokens)).argmax(-1)
        assert np.array_equal(greedy[:, prefix - 1 : -1], chosen[:, prefix:])

    def test_names_without_prefix_and_mask_buffers(self, causal_copy, causal, reference):
        """As in files of older versions of Transformers."""
        buffers = {}
        for block in range(3):
            buffers[f"transformer.h.{block}.attn.bias"] = np.tri(64, dtype=np.uint8)[None, None]
            buffers[f"transformer.h.{block}.attn.masked_bias"] = np.array(-1e4, np.float32)
        edit_tensors(
            causal_copy / WEIGHTS, buffers, rename=lambda name: name.removeprefix("transformer.")
        )
        model = load_huggingface(causal_copy)
        assert np.array_equal(numpy(model(reference["tokens"])), numpy(causal(reference["tokens"])))

    def test_shards(self, causal_copy, causal, reference):
        tensors = load_file(causal_copy / WEIGHTS)
        names = sorted(tensors)
        weight_map = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
        for shard in set(weight_map.values()):
            save_file({k: tensors[k] for k in names if weight_map[k] == shard}, causal_copy / shard)
        (causal_copy / WEIGHTS).unlink()
        index = causal_copy / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        model = load_huggingface(causal_copy)
        assert np.array_equal(numpy(model(reference["tokens"])), numpy(causal(reference["tokens"])))

        (causal_copy / "model-1.safetensors").unlink()
        with pytest.raises(InputError, match="model-1.safetensors is missing"):
            load_huggingface(causal_copy)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision_files(self, causal_copy, dtype):
        import ml_dtypes

        dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
        tensors = load_file(causal_copy / WEIGHTS)
        edit_tensors(causal_copy / WEIGHTS, {k: v.astype(dtype) for k, v in tensors.items()})
        kernel = load_huggingface(causal_copy).backbone.blocks[1].mlp.up_proj.kernel
        rounded = tensors["transformer.h.1.mlp.c_fc.weight"].astype(dtype).astype(np.float32)
        assert np.array_equal(numpy(kernel), rounded)

    @pytest.mark.parametrize(
        "architecture, expected",
        [
            ("ImageGPTForImageClassification", ImageGPTClassifier),
            ("ImageGPTForCausalImageModeling", ImageGPT),
        ],
    )
    def test_with_both_heads_the_architecture_decides(self, causal_copy, architecture, expected):
        score = np.ones((10, 48), np.float32)
        edit_tensors(causal_copy / WEIGHTS, {"score.weight": score})
        edit_json(causal_copy / "config.json", architectures=[architecture])
        assert type(load_huggingface(causal_copy)) is expected

    def test_without_palette(self, causal_copy):
        edit_json(causal_copy / "preprocessor_config.json", clusters=None)
        assert load_huggingface(causal_copy).tokenizer is None

    def test_torch_file(self, causal_copy, causal, reference):
        torch = pytest.importorskip("torch")
        tensors = load_file(causal_copy / WEIGHTS)
        file = causal_copy / "pytorch_model.bin"
        torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, file)
        (causal_copy / WEIGHTS).unlink()
        model = load_huggingface(causal_copy)
        assert np.array_equal(numpy(model(reference["tokens"])), numpy(causal(reference["tokens"])))

        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(InputError, match="pytorch_model.bin is damaged"):
            load_huggingface(causal_copy)

    def test_torch_file_without_torch(self, causal_copy, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        (causal_copy / WEIGHTS).rename(causal_copy / "pytorch_model.bin")
        with pytest.raises(InputError, match=r"pytorch_model\.bin needs PyTorch: pip install"):
            load_huggingface(causal_copy)


class TestLoadErrors:
    @pytest.mark.parametrize(
        "setting, value, supported",
        [
            ("model_type", "gpt2", "imagegpt"),
            ("activation_function", "gelu", "quick_gelu"),
            ("n_inner", 96, "192"),
            ("layer_norm_epsilon", 1e-6, "1e-05"),
            ("scale_attn_weights", False, "True"),
            ("scale_attn_by_inverse_layer_idx", True, "False"),
            ("add_cross_attention", True, "False"),
            ("tie_word_embeddings", True, "False"),
            ("n_positions", 60, "square"),
            ("n_layer", 0, "positive integer"),
            ("n_embd", "48", "positive integer"),
            ("n_head", 5, "multiple"),
            ("vocab_size", 1, "positive integer"),
        ],
    )
    def test_setting(self, causal_copy, setting, value, supported):
        edit_json(causal_copy / "config.json", **{setting: value})
        with pytest.raises(InputError) as error:
            load_huggingface(causal_copy)
        message = str(error.value)
        names = {"n_head": "num_heads", "vocab_size": "vocabulary_size"}
        shown = 0 if setting == "vocab_size" else value
        assert message.startswith(str(causal_copy / "config.json"))
        assert names.get(setting, setting) in message
        assert str(shown) in message
        assert supported in message

    def test_settings_that_are_equal_to_ours(self, causal_copy):
        edit_json(causal_copy / "config.json", n_inner=192, reorder_and_upcast_attn=True)
        assert load_huggingface(causal_copy).config.hidden_dim == 48

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"n_layer": 4}, "lacks the tensor transformer.h.3.ln_1.weight"),
            ({"n_layer": 2}, "holds the unexpected tensor transformer.h.2.attn.c_attn.bias"),
            ({"n_embd": 64}, r"transformer.wte.weight has shape \[33, 48\], expected \[33, 64\]"),
            ({"n_positions": 16}, r"wpe.weight has shape \[64, 48\], expected \[16, 48\]"),
        ],
    )
    def test_config_and_weights_disagree(self, causal_copy, changes, message):
        edit_json(causal_copy / "config.json", **changes)
        with pytest.raises(InputError, match=f"{WEIGHTS}.*{message}"):
            load_huggingface(causal_copy)

    @pytest.mark.parametrize(
        "name",
        [
            "transformer.wte.weight",
            "transformer.wpe.weight",
            "transformer.ln_f.weight",
            "transformer.h.1.ln_2.weight",
            "transformer.h.0.attn.c_attn.bias",
            "transformer.h.2.mlp.c_proj.weight",
        ],
    )
    def test_missing_tensor(self, causal_copy, name):
        edit_tensors(causal_copy / WEIGHTS, drop=[name])
        with pytest.raises(InputError, match=f"{WEIGHTS} lacks the tensor {name} "):
            load_huggingface(causal_copy)

    def test_missing_head(self, causal_copy):
        edit_tensors(causal_copy / WEIGHTS, drop=["lm_head.weight"])
        with pytest.raises(InputError, match="neither lm_head.weight .* nor score.weight"):
            load_huggingface(causal_copy)

    @pytest.mark.parametrize("name", ["lm_head.weight", "transformer.h.1.attn.c_proj.weight"])
    def test_wrong_shape(self, causal_copy, name):
        edit_tensors(causal_copy / WEIGHTS, {name: np.zeros((5, 48), np.float32)})
        with pytest.raises(InputError, match=rf"{WEIGHTS}: {name} has shape \[5, 48\], expected"):
            load_huggingface(causal_copy)

    def test_unknown_tensor(self, causal_copy):
        edit_tensors(causal_copy / WEIGHTS, {"lm_head.bias": np.zeros(32, np.float32)})
        with pytest.raises(InputError, match="lm_head.bias"):
            load_huggingface(causal_copy)

    def test_other_number_of_classes(self, classification_copy):
        edit_json(classification_copy / "config.json", id2label={"0": "cat", "1": "dog"})
        with pytest.raises(InputError, match=r"score.weight .* \[10, 48\], expected \[2, 48\]"):
            load_huggingface(classification_copy)

    @pytest.mark.parametrize("id2label", [{"0": "cat", "2": "dog"}, ["cat", "dog"], 10])
    def test_unusable_class_names(self, classification_copy, id2label):
        edit_json(classification_copy / "config.json", id2label=id2label)
        with pytest.raises(InputError, match="config.json: id2label must map"):
            load_huggingface(classification_copy)

    def test_class_names_that_are_no_text(self, classification_copy):
        names = {str(i): ["cat"] for i in range(10)}
        edit_json(classification_copy / "config.json", id2label=names)
        with pytest.raises(InputError, match="config.json: id2label must map"):
            load_huggingface(classification_copy)

    @pytest.mark.parametrize("size", [0, 5000, 200_000])
    def test_truncated_weights(self, causal_copy, size):
        file = causal_copy / WEIGHTS
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(InputError, match=f"{WEIGHTS} is damaged"):
            load_huggingface(causal_copy)

    def test_missing_weights(self, causal_copy):
        (causal_copy / WEIGHTS).unlink()
        with pytest.raises(InputError, match=f"neither {WEIGHTS} nor pytorch_model.bin"):
            load_huggingface(causal_copy)

    def test_missing_config(self, tmp_path):
        with pytest.raises(InputError, match="config.json is missing"):
            load_huggingface(tmp_path)

    @pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
    @pytest.mark.parametrize(
        "content, message",
        [(b'{"a": ', "not valid JSON"), (b"\xff\xfe", "not valid JSON"), (b"[]", "JSON object")],
    )
    def test_broken_json(self, causal_copy, file, content, message):
        (causal_copy / file).write_bytes(content)
        with pytest.raises(InputError, match=f"/{file} .*{message}"):
            load_huggingface(causal_copy)

    @pytest.mark.parametrize(
        "clusters, message",
        [
            ([[0, 0]], r"clusters .* shape \[k, 3\]"),
            ([[0, 0, 0], [1]], "clusters"),
            ([[0, 0, 300]], r"clusters .* \[-1, 1\]"),
            ([[0, 0, 0]], "vocabulary_size=32"),
        ],
    )
    def test_unusable_palette(self, causal_copy, clusters, message):
        edit_json(causal_copy / "preprocessor_config.json", clusters=clusters)
        with pytest.raises(InputError, match=message) as error:
            load_huggingface(causal_copy)
        assert str(causal_copy) in str(error.value)


def test_global_dtype_policy_is_honoured(reference):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = load_huggingface(CAUSAL)
    finally:
        keras.config.set_dtype_policy(before)
    assert model.compute_dtype == "bfloat16"
    assert largest_deviation(model(reference["tokens"]), reference["logits"]) < 0.1
