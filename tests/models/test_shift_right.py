"""Classifiers that read an image's tokens without a start vector in front."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

from igpt_keras import ImageGPT, ImageGPTClassifier, InputError


@pytest.fixture
def generative(config, randomized):
    return randomized(ImageGPT(config))


@pytest.fixture
def unshifted(generative, randomized):
    return randomized(
        ImageGPTClassifier.from_preset(generative, 3, shift_right=False, generative_weight=0)
    )


def changed_by(classifier, tokens, position):
    other = tokens.copy()
    other[:, position] = (other[:, position] + 1) % classifier.config.vocabulary_size
    difference = ops.convert_to_numpy(classifier(tokens)) - ops.convert_to_numpy(classifier(other))
    return np.abs(difference).max()


def test_it_sees_the_last_token(unshifted, generative, randomized, tokens):
    shifted = randomized(ImageGPTClassifier.from_preset(generative, 3))
    assert changed_by(unshifted, tokens, -1) > 1e-3
    assert changed_by(shifted, tokens, -1) == 0
    assert changed_by(unshifted, tokens, 0) > 1e-3


def test_it_does_not_see_the_start_vector(unshifted, tokens):
    before = ops.convert_to_numpy(unshifted(tokens))
    embedding = unshifted.backbone.embedding
    embedding.start_vector.assign(embedding.start_vector + 1)
    np.testing.assert_array_equal(ops.convert_to_numpy(unshifted(tokens)), before)


def test_it_starts_from_the_weights_of_a_generative_model(generative):
    classifier = ImageGPTClassifier.from_preset(
        generative, 3, shift_right=False, generative_weight=0
    )
    for ours, theirs in zip(
        classifier.backbone.get_weights(), generative.backbone.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    expected = generative.config.parameter_count(num_classes=3, token_head=False)
    assert classifier.count_params() == expected


def test_training_moves_all_weights_but_the_start_vector(unshifted, tokens):
    before = {v.path: ops.convert_to_numpy(v) for v in unshifted.weights}
    unshifted.compile(keras.optimizers.Adam(0.01))
    with warnings.catch_warnings(record=True) as caught:
        unshifted.fit(tokens, np.arange(6) % 3, batch_size=3, verbose=0)
    assert not [warning for warning in caught if "radient" in str(warning.message)]
    unmoved = [
        v.path for v in unshifted.weights if np.array_equal(before[v.path], ops.convert_to_numpy(v))
    ]
    assert len(unmoved) == 1
    assert unmoved[0].endswith("start_vector")


def test_it_comes_back(unshifted, tokens, tmp_path):
    unshifted.save_to_preset(tmp_path / "folder")
    unshifted.save(tmp_path / "file.keras")
    for name in ("folder", "file.keras"):
        again = ImageGPTClassifier.from_preset(tmp_path / name)
        assert not again.backbone.shift_right
        np.testing.assert_array_equal(
            ops.convert_to_numpy(again(tokens)), ops.convert_to_numpy(unshifted(tokens))
        )


@pytest.mark.parametrize(
    "arguments", [{"generative_weight": 1}, {"generative_weight": 0, "objective": "bert"}]
)
def test_where_it_has_no_meaning(config, arguments):
    with pytest.raises(InputError, match='shift_right=False needs objective="ar" and generative_w'):
        ImageGPTClassifier(config, 3, shift_right=False, **arguments)
    with pytest.raises(InputError, match="shift_right=False needs"):
        ImageGPT(config, shift_right=False)
