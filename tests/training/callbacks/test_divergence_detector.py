import functools
import json
import math

import keras
import numpy as np
import pytest

from igpt_keras import ColorPalette, ImageGPT, ImageGPTClassifier, ImageGPTConfig, InputError
from igpt_keras.data.data_set import open_data
from igpt_keras.training.callbacks.divergence_detector import Diverged, DivergenceDetector
from igpt_keras.training.recipes import finetune, pretrain

CURVES = ("decay", "plateau", "power", "classifier", "wander", "spike", "warm-up")


@functools.cache
def _untrained():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def diverged_at(losses, detector=None, execution=1, steps_of_epoch=None, restart_at=None):
    """The step at which the detector raises on a run of these losses, or None.

    At `restart_at` another detector resumes from the state of the first.
    """
    detector = detector or DivergenceDetector(len(losses))
    detector.set_model(_untrained())
    detector.on_train_begin()
    steps_of_epoch = steps_of_epoch or len(losses)
    first_of_fit, sum_of_epoch = 0, 0.0
    try:
        for step in range(execution, len(losses) + 1, execution):
            epoch_start = (step - 1) // steps_of_epoch * steps_of_epoch
            sum_of_epoch += losses[step - execution : step].sum()
            logs = {"loss": sum_of_epoch / (step - epoch_start)}
            detector.on_train_batch_end(step - 1 - max(epoch_start, first_of_fit), logs)
            if step == epoch_start + steps_of_epoch:
                detector.on_epoch_end(0, {**logs, "val_loss": logs["loss"]})
                sum_of_epoch = 0.0
            if step == restart_at:
                state = json.loads(json.dumps(detector.get_state()))
                detector, first_of_fit = DivergenceDetector(len(losses)), step
                detector.set_state(state)
                detector.set_model(_untrained())
                detector.on_train_begin()
    except Diverged as error:
        assert error.step == step and "spiked and did not recover" in error.reason
        return step
    return None


def ordinary_curve(generator, steps, kind):
    """A loss curve of a training that is well: falling or flat, noisy, some with a short spike.

    Noise is normal, of Student's t with 3 degrees of freedom, or exponential; its standard
    deviation from 0.5% to 30%, of the loss or absolute.
    """
    t = np.arange(steps)
    floor = 0.0 if kind == "classifier" else generator.uniform(0.0005, 3)
    start = generator.uniform(1, 3) * max(floor, 1)
    shape = np.exp(-t / (steps * generator.uniform(0.005, 0.3)))
    if kind == "plateau":
        shape = np.zeros(steps)
    elif kind == "power":
        shape = (1 + t / 10) ** -generator.uniform(0.1, 0.6)
    curve = floor + (start - floor) * shape
    noise = [
        generator.standard_normal(steps),
        generator.standard_t(3, steps) / math.sqrt(3),
        generator.exponential(1, steps) - 1,
    ][generator.integers(3)]
    deviation = generator.choice([0.005, 0.02, 0.05, 0.15, 0.3])
    if kind == "wander":
        # The weights, not the batches: correlated over some fifty steps.
        kernel = 0.2 * 0.98 ** np.arange(300)
        noise, deviation = np.convolve(noise, kernel)[:steps], min(deviation, 0.02)
    if kind == "classifier":
        scale = np.minimum(curve, 1)
    else:
        scale = curve if generator.random() < 0.5 else 1
    losses = curve + deviation * scale * noise
    if kind == "spike":
        since = t - generator.integers(steps // 10, steps // 2)
        spike = np.exp(-np.maximum(since, 0) / (steps * generator.uniform(0.001, 0.02)))
        losses += np.where(since >= 0, generator.uniform(0.5, 5) * spike, 0)
    if kind == "warm-up":
        peak = steps * generator.uniform(0.02, 0.1)
        losses += generator.uniform(0.1, 1) * np.exp(-(((t - peak) / (peak / 3)) ** 2))
    return np.maximum(losses, 1e-4)


def false_alarms(curves, steps):
    generator = np.random.default_rng(steps)
    return [
        (kind, index)
        for kind in CURVES
        for index in range(curves)
        if diverged_at(ordinary_curve(generator, steps, kind)) is not None
    ]


def test_ordinary_noise_is_no_divergence():
    assert false_alarms(curves=60, steps=320) == []


@pytest.mark.slow
@pytest.mark.parametrize(("curves", "steps"), [(2000, 100), (1000, 1000), (50, 20000)])
def test_ordinary_noise_is_no_divergence_in_thousands_of_runs(curves, steps):
    """Not more than one false alarm in 1,000 runs."""
    assert len(false_alarms(curves, steps)) <= curves * len(CURVES) // 1000


@pytest.mark.parametrize("execution", [1, 8])
@pytest.mark.parametrize("steps", [320, 1600, 8000])
def test_a_spike_that_stays_is_told_after_the_patience(steps, execution):
    generator = np.random.default_rng(steps)
    losses = 1.5 + 1.3 * np.exp(-np.arange(steps) / (0.05 * steps))
    losses += generator.normal(0, 0.05, steps)
    spike = steps // 2
    assert diverged_at(losses, execution=execution) is None
    losses[spike:] += 0.5
    detector = DivergenceDetector(steps)
    step = diverged_at(losses, detector, execution)
    waited = detector.window * detector.patience
    # The window in which it begins may count or not.
    assert spike + waited - detector.window < step <= spike + 1.1 * waited + detector.window


def test_a_resumed_run_diverges_at_the_same_step():
    losses = np.random.default_rng(0).normal(2, 0.1, 400)
    losses[150:] += 1
    step = diverged_at(losses, steps_of_epoch=50)
    assert step == diverged_at(losses)
    for restart_at in (1, 73, 100, 151, 190, step - 1):
        assert diverged_at(losses, steps_of_epoch=50, restart_at=restart_at) == step


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite_ends_the_run(value):
    detector = DivergenceDetector(100)
    with pytest.raises(Diverged, match=f"the validation loss is {value}"):
        detector.on_epoch_end(0, {"loss": 1.0, "val_loss": value})
    detector.on_epoch_end(0, {"loss": 1.0, "val_loss": 2.0})
    detector.on_epoch_end(0, {"loss": 1.0})


@pytest.mark.parametrize("name", ["total_steps", "window", "patience", "tolerance"])
def test_settings_are_positive(name):
    with pytest.raises(InputError, match=f"{name} must be greater than 0, got 0"):
        DivergenceDetector(**{"total_steps": 100, name: 0})


@pytest.fixture(scope="module")
def digits():
    """The handwritten digits, a palette, and their tokens to train on and to validate with."""
    data = open_data("digits")
    palette = ColorPalette.fit(data.train.images, 16)
    return (
        data,
        palette,
        palette.tokenize(data.train.images),
        palette.tokenize(data.validation.images),
    )


def train_on(digits, objective, rate, *, batch_size=32, epochs=10, dtype="float32"):
    """The paper's recipe with four epochs of warm-up, under a detector."""
    _, palette, train, validation = digits
    config = ImageGPTConfig(8, 16, hidden_dim=32, num_layers=2, num_heads=2)
    model = ImageGPT(config, objective, tokenizer=palette, dtype=dtype)
    steps = math.ceil(len(train) / batch_size)
    return pretrain(
        model,
        train,
        validation,
        epochs=epochs,
        warmup_steps=4 * steps,
        batch_size=batch_size,
        learning_rate=rate,
        callbacks=[DivergenceDetector(epochs * steps)],
        verbose=0,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "rate"),
    [
        ("ar", 3.0),
        pytest.param("ar", 0.3, marks=pytest.mark.slow),
        pytest.param("ar", 10.0, marks=pytest.mark.slow),
        pytest.param("bert", 3.0, marks=pytest.mark.slow),
    ],
)
def test_too_high_a_rate_on_digits_ends_in_a_spike(digits, objective, rate):
    with pytest.raises(Diverged, match="spiked and did not recover") as raised:
        train_on(digits, objective, rate)
    assert 0 < raised.value.step < 400


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["ar", "bert"])
@pytest.mark.parametrize(("rate", "batch_size"), [(0.003, 32), (0.01, 32), (0.003, 4)])
def test_a_good_rate_on_digits_is_left_alone(digits, objective, rate, batch_size):
    epochs = 10 if batch_size == 32 else 3
    history = train_on(digits, objective, rate, batch_size=batch_size, epochs=epochs)
    assert history["val_loss"][-1] < 1.8


def test_a_rate_that_overflows_ends_at_once(digits):
    """At this rate, float32 spikes; float16 overflows."""
    with pytest.raises(Diverged, match="the training loss is nan"):
        train_on(digits, "ar", 3.0, dtype="mixed_float16")


@pytest.mark.slow
def test_fine_tuning_on_few_labels_is_left_alone(digits):
    """The loss goes from 2.3 nats towards 0, by batches of 4."""
    data, palette, train, validation = digits
    config = ImageGPTConfig(8, 16, hidden_dim=32, num_layers=2, num_heads=2)
    classifier = ImageGPTClassifier(config, 10, generative_weight=0.0, tokenizer=palette)
    few, labels = train[:100], data.train.labels[:100]
    history = finetune(
        classifier,
        (few, labels),
        None,
        epochs=40,
        patience=1,
        batch_size=4,
        learning_rate=0.003,
        callbacks=[DivergenceDetector(40 * 25)],
        verbose=0,
    ).history
    assert history["loss"][-1] < 0.3
