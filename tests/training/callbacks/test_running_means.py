import json

import keras
import numpy as np
import pytest

from igpt_keras.training.callbacks.running_means import RunningMeans, updates_done


@pytest.fixture
def model():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("execution", [1, 3])
def test_means_over_any_steps_out_of_running_means(model, execution):
    """Against the means of the steps themselves; some runs go on in another process."""
    generator = np.random.default_rng(0)
    losses = generator.normal(2, 1, 240)
    steps_of_epoch = 12
    recent = RunningMeans()
    recent.begin(model)
    taken, first_of_fit, restarts = 0, 0, 0
    for step in range(execution, len(losses) + 1, execution):
        epoch_start = (step - 1) // steps_of_epoch * steps_of_epoch
        running = losses[epoch_start:step].mean()
        batch = step - 1 - max(epoch_start, first_of_fit)
        assert recent.update(batch, {"loss": running, "double": 2 * running}) == execution
        if step == epoch_start + steps_of_epoch:
            recent.end_epoch()
        if generator.random() < 0.4:
            assert recent.steps == step - taken
            means = recent.result()
            assert means["loss"] == pytest.approx(losses[taken:step].mean(), rel=1e-12)
            assert means["double"] == pytest.approx(2 * means["loss"])
            assert recent.result() == {}
            taken = step
        if generator.random() < 0.3:
            state = json.loads(json.dumps(recent.get_state()))
            recent, first_of_fit, restarts = RunningMeans(), step, restarts + 1
            recent.set_state(state)
            recent.begin(model)
        assert recent.step == step
    assert restarts > 3


def test_steps_start_where_the_optimizer_is(model):
    model.fit(np.zeros((6, 2)), np.zeros((6, 1)), batch_size=2, verbose=0)
    assert updates_done(model) == 3
    recent = RunningMeans()
    recent.begin(model)
    recent.update(0, {"loss": 1.0})
    assert recent.step == 4
