import math

import keras
import numpy as np
import pytest

from igpt_keras import ImageGPT
from igpt_keras.training.recipes import adam, pretrain, warmup_cosine


def test_schedule_warms_up_linearly_and_falls_as_a_cosine():
    schedule = warmup_cosine(0.5, warmup_steps=10, total_steps=110)
    for step in (0, 1, 5, 10):
        assert float(schedule(step)) == pytest.approx(0.5 * step / 10, abs=1e-6)
    for step in (10, 35, 60, 85, 110):
        expected = 0.25 * (1 + math.cos(math.pi * (step - 10) / 100))
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-6)


def test_adam_has_the_betas_of_the_paper_and_no_weight_decay():
    optimizer = adam(0.1)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.weight_decay) == (0.9, 0.95, None)


class RateLog(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.rates = []

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))


@pytest.mark.parametrize("objective", ["ar", pytest.param("bert", marks=pytest.mark.slow)])
def test_pretrain_warms_up_over_one_epoch_and_learns(config, counting, objective):
    tokens, _ = counting
    model = ImageGPT(config, objective)
    log = RateLog()
    validation = tokens[64:]
    if objective == "bert":
        masked = np.random.default_rng(1).random(validation.shape) < 0.15
        validation = {"tokens": validation, "masked": masked}
    history = pretrain(
        model,
        tokens[:64],
        validation,
        epochs=30,
        batch_size=16,
        learning_rate=0.02,
        callbacks=[log],
        verbose=0,
    )
    assert len(log.rates) == 120
    assert int(np.argmax(log.rates)) == 3
    assert max(log.rates) == pytest.approx(0.02)
    assert log.rates[-1] == pytest.approx(0, abs=1e-6)
    # A unigram model pays log(8) = 2.08 nats.
    assert history["val_loss"][-1] < 1.7 < history["val_loss"][0]


@pytest.mark.slow
def test_the_seed_decides_a_run(config, counting):
    tokens, _ = counting

    def run(seed):
        keras.utils.set_random_seed(1)
        model = ImageGPT(config)
        pretrain(model, tokens[:60], tokens[60:], epochs=2, batch_size=16, seed=seed, verbose=0)
        return np.concatenate([weight.ravel() for weight in model.get_weights()])

    first, same, other = run(0), run(0), run(1)
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
