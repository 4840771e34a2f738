import numpy as np
import pytest

from igpt_keras import ImageGPT, ImageGPTClassifier, InputError


@pytest.fixture
def model(config, palette, randomized):
    return randomized(ImageGPT(config, tokenizer=palette))


def test_a_score_is_the_loss_times_the_number_of_pixels(model, palette, images):
    model.compile()
    scores = model.score(images)
    assert scores.dtype == np.float32
    for image, score in zip(images, scores, strict=True):
        tokens = palette.tokenize(image[None])
        loss = model.evaluate(tokens, verbose=0, return_dict=True)["loss"]
        assert score == pytest.approx(-16 * loss, rel=1e-5)


def test_scores_of_pixels_sum_to_that_of_the_image_in_any_batch(model, images):
    per_pixel = model.score(images, per_pixel=True, batch_size=2)
    assert per_pixel.shape == (3, 4, 4)
    np.testing.assert_allclose(per_pixel.sum(axis=(1, 2)), model.score(images), rtol=1e-5)


def test_a_completion_scores_what_it_was_drawn_with(model, images):
    # Its colors are those of the palette, so that encoding them again loses nothing.
    completed = model.generate(images, keep_rows=2, num_completions=2, seed=8)
    scores = model.score(completed.images.reshape(6, 4, 4, 3), per_pixel=True)
    np.testing.assert_allclose(
        scores.sum(axis=(1, 2)), completed.total_log_likelihood.reshape(6), atol=1e-4
    )
    np.testing.assert_allclose(
        scores[:, 2:].sum(axis=(1, 2)), completed.log_likelihood.reshape(6), atol=1e-4
    )


def test_a_classifier_with_token_logits_scores_as_its_model(model, images):
    classifier = ImageGPTClassifier.from_preset(model, 3)
    np.testing.assert_allclose(classifier.score(images), model.score(images), rtol=1e-5)


def test_what_cannot_be_scored_is_named(model, config, palette, images):
    with pytest.raises(InputError, match='objective="ar"'):
        ImageGPT(config, "bert", tokenizer=palette).score(images)
    with pytest.raises(InputError, match="tokenizer is missing"):
        ImageGPT(config).score(images)
    with pytest.raises(InputError, match="batch_size must be an integer >= 1, got 0"):
        model.score(images, batch_size=0)
    with pytest.raises(InputError, match=r"got \[3, 4, 3, 3\]"):
        model.score(images[:, :, :3])
