import threading

import keras
import numpy as np
import pytest

import igpt_keras
from igpt_keras.errors import InputError
from igpt_keras.evaluation import features
from igpt_keras.evaluation.features import FeatureExtractor
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.models.masking import draw_mask


@pytest.fixture
def model(config, randomized):
    return randomized(ImageGPT(config))


@pytest.fixture
def bert(config, randomized):
    return randomized(ImageGPT(config, "bert", mask_probability=0.4))


def layer_by_layer(model, inputs):
    layers = range(model.config.num_layers + 1)
    return np.stack([keras.ops.convert_to_numpy(model.features(inputs, layer)) for layer in layers])


def test_every_layer_is_what_the_model_gives_one_by_one(model, tokens, tmp_path):
    seen = []
    # The last batch is a short one.
    extractor = FeatureExtractor(model, tmp_path, batch_size=4, on_batch=seen.append)
    features = extractor.features(tokens)
    assert isinstance(features, np.memmap)
    assert features.shape == (3, 6, 16) and features.dtype == np.float32
    np.testing.assert_allclose(features, layer_by_layer(model, tokens), atol=1e-5)
    assert seen == [4, 2]


def test_one_pass_runs_every_block_once(model, tokens, monkeypatch):
    calls = []
    for block in model.backbone.blocks:
        call = block.call
        monkeypatch.setattr(block, "call", lambda h, c=call: calls.append(len(h)) or c(h))
    model.features_of_all_layers(tokens)
    assert calls == [6, 6]


def test_a_second_call_reads_the_file(model, tokens, tmp_path):
    first = FeatureExtractor(model, tmp_path).features(tokens)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    batches = []
    # Neither the batch size nor the dtype of the tokens matters.
    again = FeatureExtractor(model, tmp_path, batch_size=2, on_batch=batches.append)
    np.testing.assert_array_equal(first, again.features(tokens.astype(np.uint16)))
    assert not batches
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [written]


class Killed(Exception):
    pass


@pytest.mark.parametrize(("noted", "left"), [(True, 3), (False, 6)])
def test_what_a_process_that_was_killed_computed_is_not_computed_again(
    model, tokens, tmp_path, monkeypatch, noted, left
):
    expected = np.array(FeatureExtractor(model, tmp_path / "whole").features(tokens))
    monkeypatch.setattr(features, "SECONDS_BETWEEN_NOTES", 0 if noted else 1000)
    seen = []

    def die(count):
        seen.append(count)
        if len(seen) == 3:
            raise Killed

    with pytest.raises(Killed):
        FeatureExtractor(model, tmp_path / "cut", batch_size=1, on_batch=die).features(tokens)
    batches, call = [], features.MethodModel.predict_on_batch

    def predict(self, inputs):
        batches.append(len(inputs))
        return call(self, inputs)

    monkeypatch.setattr(features.MethodModel, "predict_on_batch", predict)
    seen.clear()
    extractor = FeatureExtractor(model, tmp_path / "cut", batch_size=1, on_batch=seen.append)
    np.testing.assert_allclose(extractor.features(tokens), expected, atol=1e-6)
    assert sum(batches) == left
    assert sum(seen) == 6
    assert len(list((tmp_path / "cut").iterdir())) == 1


def test_two_processes_do_not_compute_the_same(model, tokens, tmp_path):
    waiting, computed = [], []

    def start_another(count):
        if not waiting:
            other = FeatureExtractor(model, tmp_path, on_batch=computed.append)
            waiting.append(threading.Thread(target=other.features, args=(tokens,)))
            waiting[0].start()

    FeatureExtractor(model, tmp_path, batch_size=2, on_batch=start_another).features(tokens)
    waiting[0].join(timeout=60)
    assert not waiting[0].is_alive() and not computed
    assert len(list(tmp_path.iterdir())) == 1


def test_other_weights_tokens_or_masks_make_another_file(
    model, bert, config, tokens, randomized, tmp_path
):
    other_tokens = tokens.copy()
    other_tokens[-1, -1] ^= 1
    extractor = FeatureExtractor(model, tmp_path)
    extractor.features(tokens)
    extractor.features(other_tokens)
    FeatureExtractor(randomized(ImageGPT(config), seed=1), tmp_path).features(tokens)
    masked = FeatureExtractor(bert, tmp_path)
    masked.features(tokens)
    masked.features(tokens, vote=1)
    FeatureExtractor(bert, tmp_path, seed=1).features(tokens)
    assert len(list(tmp_path.iterdir())) == 6
    # An autoregressive model has no masks.
    FeatureExtractor(model, tmp_path, seed=1).features(tokens, vote=1)
    assert len(list(tmp_path.iterdir())) == 6


def test_bert_sees_the_mask_of_the_vote_whatever_the_batches(bert, tokens, tmp_path):
    extractor = FeatureExtractor(bert, tmp_path, batch_size=4, seed=7)
    for vote in (0, 3):
        inputs = {"tokens": tokens, "masked": draw_mask(tokens.shape, 0.4, seed=7, vote=vote)}
        features = extractor.features(tokens, vote)
        np.testing.assert_allclose(features, layer_by_layer(bert, inputs), atol=1e-5)


def test_a_classifier_has_the_features_of_its_backbone(model, tokens, tmp_path):
    classifier = igpt_keras.ImageGPTClassifier.from_preset(model, 3)
    features = FeatureExtractor(classifier, tmp_path).features(tokens)
    np.testing.assert_allclose(features, layer_by_layer(model, tokens), atol=1e-5)


def test_half_precision_models_give_float32(config, tokens, tmp_path):
    model = ImageGPT(config, dtype="mixed_bfloat16")
    assert FeatureExtractor(model, tmp_path).features(tokens).dtype == np.float32


def test_unusable_tokens_leave_nothing(model, tokens, tmp_path):
    unusable = tokens.copy()
    unusable[-1] = 8
    extractor = FeatureExtractor(model, tmp_path, batch_size=5)
    with pytest.raises(InputError, match="tokens must lie in 0…7"):
        extractor.features(unusable)
    with pytest.raises(InputError, match="at least one image"):
        extractor.features(tokens[:0])
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        FeatureExtractor(model, tmp_path, batch_size=0)


def test_a_damaged_file_is_named(model, tokens, tmp_path):
    extractor = FeatureExtractor(model, tmp_path)
    extractor.features(tokens)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match=f"{file.name} is damaged"):
        extractor.features(tokens)
