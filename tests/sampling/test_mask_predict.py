import numpy as np
import pytest
from keras import ops

from igpt_keras import ImageGPT, ImageGPTConfig, InputError
from igpt_keras.sampling.gumbel import gumbel_noise
from igpt_keras.sampling.mask_predict import mask_schedule
from igpt_keras.sampling.requests import completion_seeds
from igpt_keras.sampling.samplers import Categorical, Greedy


@pytest.fixture
def model(palette, randomized):
    return randomized(ImageGPT(ImageGPTConfig(4, 8, 16, 2, 2), "bert", tokenizer=palette))


@pytest.fixture
def known():
    return np.random.default_rng(3).random((3, 4, 4)) < 0.4


def noise_of(seed):
    """Float32 [n, V], of the first completion of an image with this seed."""
    return gumbel_noise(completion_seeds(seed, 1, 1)[0], 0, 4, 4, 8).numpy()[:, 0]


def logits_of(model, tokens, masked):
    inputs = {"tokens": tokens[None], "masked": masked[None]}
    return ops.convert_to_numpy(model(inputs))[0].astype(np.float64)


def test_one_pixel_a_step_is_a_loop_over_the_most_confident(model, palette, images, known):
    unknown = int((~known[0]).sum())
    filled = model.generate(
        images[:1], known_mask=known[0], seed=11, sampler=Categorical(0.8), num_steps=unknown
    )
    tokens = palette.tokenize(images[0])
    masked = ~known[0].reshape(-1)
    noise, log_likelihood, entropy = noise_of(11), 0.0, np.zeros(16)
    while masked.any():
        logits = logits_of(model, tokens, masked)
        sharpened = np.exp(logits / 0.8)
        confidence = (sharpened / sharpened.sum(axis=1, keepdims=True)).max(axis=1)
        position = np.where(masked, confidence, -1).argmax()
        tokens[position] = (logits[position] / 0.8 + noise[position]).argmax()
        probabilities = np.exp(logits[position]) / np.exp(logits[position]).sum()
        log_likelihood += np.log(probabilities[tokens[position]])
        entropy[position] = -(probabilities * np.log(probabilities)).sum()
        masked[position] = False
    np.testing.assert_array_equal(filled.tokens[0, 0], tokens)
    assert filled.log_likelihood[0, 0] == pytest.approx(log_likelihood, abs=1e-4)
    np.testing.assert_allclose(filled.entropy[0, 0].reshape(-1), entropy, atol=1e-4)
    assert filled.num_forward_passes == unknown


def test_one_step_draws_every_pixel_by_itself(model, palette, images, known):
    filled = model.generate(images[:1], known_mask=known[0], seed=4, num_steps=1)
    tokens = palette.tokenize(images[0])
    masked = ~known[0].reshape(-1)
    drawn = (logits_of(model, tokens, masked) + noise_of(4)).argmax(axis=1)
    np.testing.assert_array_equal(filled.tokens[0, 0], np.where(masked, drawn, tokens))
    assert filled.num_forward_passes == 1


@pytest.mark.parametrize("num_steps", [1, 2, 5, None])
def test_known_pixels_are_kept_and_the_batch_does_not_matter(
    model, palette, images, known, num_steps
):
    sampler = Categorical(top_k=5, top_p=0.95)
    arguments = {"num_completions": 3, "sampler": sampler, "num_steps": num_steps}
    together = model.generate(images, known_mask=known, seed=[5, 9, 7], **arguments)
    alone = model.generate(images[1:2], known_mask=known[1], seed=[9], **arguments)
    np.testing.assert_array_equal(together.tokens[1], alone.tokens[0])
    tokens = together.tokens.reshape(3, 3, 4, 4)
    original = palette.nearest(images)
    for completion in range(3):
        np.testing.assert_array_equal(tokens[:, completion][known], original[known])
    assert (tokens[:, 0] != tokens[:, 1]).any()
    assert together.total_log_likelihood is None
    assert (together.log_likelihood < 0).all()


def test_greedy_completions_ignore_the_seed(model, images):
    one, other = (
        model.generate(images, keep_rows=1, sampler=Greedy(), num_steps=4, seed=seed)
        for seed in (0, 50)
    )
    np.testing.assert_array_equal(one.tokens, other.tokens)


def test_sampling_from_nothing_fills_every_pixel(model):
    sampled = model.sample(2, num_steps=3)
    assert sampled.images.shape == (2, 1, 4, 4, 3)
    assert (sampled.entropy > 0).all()
    assert sampled.num_forward_passes == 3


@pytest.mark.parametrize("num_steps", [1, 3, 8, 16, 100])
def test_every_step_fills_some_and_the_last_one_the_rest(num_steps):
    unknown = np.array([0, 1, 7, 16, 64])
    left = np.vstack([unknown, mask_schedule(unknown, num_steps)])
    assert len(left) - 1 == min(num_steps, 64)
    filled = left[:-1] - left[1:]
    assert (filled[left[:-1] > 0] >= 1).all()
    assert (left[-1] == 0).all()
    # The first steps fill fewer than the last ones.
    if 1 < num_steps < 64:
        assert filled[0, -1] <= filled[-1, -1]
    # What a sequence does is its own matter.
    for index, count in enumerate(unknown):
        alone = mask_schedule(unknown[index : index + 1], num_steps)
        assert len(alone) == min(num_steps, count)
        np.testing.assert_array_equal(alone[:, 0], left[1 : 1 + len(alone), index])


def test_what_only_one_objective_has_is_refused_for_the_other(model, images, config, palette):
    ar = ImageGPT(config, tokenizer=palette)
    with pytest.raises(InputError, match="num_steps=4 is for BERT models"):
        ar.generate(images, keep_rows=2, num_steps=4)
    for num_steps in (0, -1, 1.5):
        with pytest.raises(InputError, match=f"num_steps must be an integer >= 1, got {num_steps}"):
            model.generate(images, keep_rows=2, num_steps=num_steps)
    for name, value in (("draft", ar), ("on_row", print), ("jit_compile", True)):
        with pytest.raises(InputError, match=f"{name} is for autoregressive models"):
            model.generate(images, keep_rows=2, **{name: value})
