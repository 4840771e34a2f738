import json
import math
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from igpt_keras import ImageGPT, ImageGPTConfig, InputError
from igpt_keras.training.callbacks.history_logger import (
    EVENTS_FOLDER,
    HISTORY_FILE,
    TIMED,
    HistoryLogger,
    read_history,
)
from igpt_keras.training.recipes import adam, warmup_cosine

# Five steps an epoch.
IMAGES, BATCH_SIZE, STEPS_PER_EPOCH = 20, 4, 5


@pytest.fixture
def config():
    return ImageGPTConfig(4, 8, hidden_dim=8, num_layers=1, num_heads=1)


@pytest.fixture
def images():
    return np.random.default_rng(2).integers(0, 8, (IMAGES, 16)).astype(np.int32)


def new_model(config, optimizer=None, **settings):
    keras.utils.set_random_seed(0)
    model = ImageGPT(config)
    optimizer = optimizer or adam(warmup_cosine(0.01, 5, 20))
    model.compile(optimizer, **{"run_eagerly": True, **settings})
    return model


def fit(model, images, callbacks, skip=0, **settings):
    """`skip`: how many images, at the beginning, are not trained on."""
    model.fit(
        images[skip:],
        batch_size=BATCH_SIZE,
        shuffle=False,
        validation_data=(images[:8], None),
        callbacks=callbacks,
        verbose=0,
        **settings,
    )


def untimed(records):
    return [{k: v for k, v in record.items() if k not in TIMED} for record in records]


def events_of(folder):
    """The events of all files in the order in which they were written."""
    paths = (folder / EVENTS_FOLDER).iterdir()
    events = [e for path in paths for e in tf.compat.v1.train.summary_iterator(str(path))]
    return sorted(events, key=lambda event: event.wall_time)


def scalars_of(folder):
    return [
        (event.step, value.tag, float(tf.make_ndarray(value.tensor)))
        for event in events_of(folder)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "scalars"
    ]


def scalars_in(records):
    return [
        (record["step"], name, pytest.approx(value, rel=1e-6))
        for record in records
        for name, value in record.items()
        if name not in ("step", "time") and value is not None
    ]


def test_a_record_holds_the_means_over_the_steps_since_the_last(config, images, tmp_path):
    """Against the losses that the model itself has before each of the steps."""
    losses = []

    class Losses(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            part = images[BATCH_SIZE * batch : BATCH_SIZE * (batch + 1)]
            logits = self.model(part).numpy().astype(np.float64)
            nll = np.log(np.exp(logits).sum(axis=-1))
            nll -= np.take_along_axis(logits, part[..., None], axis=-1)[..., 0]
            losses.append(nll.mean())

    records_seen = []
    logger = HistoryLogger(tmp_path, 3, BATCH_SIZE, listeners=[records_seen.append])
    model = new_model(config)
    fit(model, images, [Losses(), logger], epochs=2)
    records = read_history(tmp_path)
    assert records == records_seen
    # At multiples of 3, and at the ends of both epochs.
    assert [record["step"] for record in records] == [3, 5, 6, 9, 10]
    before = 0
    for record in records:
        expected = np.mean(losses[before : record["step"]])
        assert record["loss"] == pytest.approx(expected, abs=1e-5)
        assert record["bits_per_pixel"] == pytest.approx(expected / math.log(2), abs=1e-5)
        before = record["step"]
        # The rate by which the weights were changed last, of the schedule's closed form.
        last = record["step"] - 1
        rate = 0.01 * (last / 5 if last <= 5 else (1 + math.cos(math.pi * (last - 5) / 15)) / 2)
        assert record["learning_rate"] == pytest.approx(rate, rel=1e-5)
    assert ["val_loss" in record for record in records] == [False, True, False, False, True]
    measured = model.evaluate(images[:8], verbose=0, return_dict=True)
    assert records[-1]["val_loss"] == pytest.approx(measured["loss"], rel=1e-6)
    assert records[-1]["val_bits_per_pixel"] == pytest.approx(measured["bits_per_pixel"])


def test_what_is_no_mean_over_steps_is_of_the_epoch_so_far(tmp_path):
    """A root mean square is not linear; the mean absolute error is."""
    x = np.random.default_rng(3).normal(0, 1, (12, 1)).astype(np.float32)
    model = keras.Sequential([keras.layers.Dense(1, kernel_initializer="ones")])
    rms = keras.metrics.RootMeanSquaredError(name="rms")
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=["mae", rms], run_eagerly=True)
    logger = HistoryLogger(tmp_path, 2, 2)
    zeros, rest = np.zeros((12, 1)), {"shuffle": False, "verbose": 0, "callbacks": [logger]}
    model.fit(x, zeros, batch_size=2, epochs=1, validation_data=(x[:3], zeros[:3]), **rest)
    records = read_history(tmp_path)
    assert [record["step"] for record in records] == [2, 4, 6, 6]
    for record in records[:3]:
        seen = x[: 2 * record["step"]]
        assert record["rms"] == pytest.approx(np.sqrt(np.mean(seen**2)), rel=1e-5)
        assert record["mae"] == pytest.approx(np.abs(seen[-4:]).mean(), rel=1e-5)
    assert records[3]["val_rms"] == pytest.approx(np.sqrt(np.mean(x[:3] ** 2)), rel=1e-5)


def test_several_steps_an_execution(config, images, tmp_path):
    loggers = {count: HistoryLogger(tmp_path / str(count), 2, BATCH_SIZE) for count in (1, 2)}
    for count, logger in loggers.items():
        model = new_model(config, run_eagerly=False, jit_compile=False, steps_per_execution=count)
        fit(model, images[:16], [logger], epochs=1)
    one, two = (untimed(read_history(tmp_path / str(count))) for count in loggers)
    assert [record["step"] for record in one] == [record["step"] for record in two] == [2, 4, 4]
    for record, other in zip(one, two, strict=True):
        assert record == pytest.approx(other, abs=1e-5)


def test_the_speed_is_that_of_training_alone(config, images, tmp_path, monkeypatch):
    """By a clock that training, validation and another callback move."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    class Clock(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_begin(self, batch, logs=None):
            # The first step compiles.
            clock[0] += 0.5 if self.steps else 100.0
            self.steps += 1

        def on_train_batch_end(self, batch, logs=None):
            clock[0] += 7.0

        def on_test_begin(self, logs=None):
            clock[0] += 50.0

    logger = HistoryLogger(tmp_path, STEPS_PER_EPOCH, BATCH_SIZE)
    fit(new_model(config), images, [logger, Clock()], epochs=2)
    speeds = [r["images_per_second"] for r in read_history(tmp_path) if "loss" in r]
    assert speeds == [pytest.approx(BATCH_SIZE / 0.5)] * 2


def test_before_a_second_step_there_is_no_speed(config, images, tmp_path):
    fit(new_model(config), images, [HistoryLogger(tmp_path, 1, BATCH_SIZE)], epochs=1)
    speeds = [record.get("images_per_second") for record in read_history(tmp_path)]
    assert speeds[0] is None and all(speed > 0 for speed in speeds[1:-1])


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Holds what must be restored, as of one step, and ends the run at a later one."""

    def __init__(self, logger, state_at, killed_at):
        super().__init__()
        self.logger, self.state_at, self.killed_at = logger, state_at, killed_at
        self.steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps % STEPS_PER_EPOCH:
            self._see()

    def on_epoch_end(self, epoch, logs=None):
        self._see()

    def _see(self):
        if self.steps == self.state_at:
            variables = [*self.model.variables, *self.model.optimizer.variables]
            self.variables = [(v, np.array(v)) for v in variables]
            self.metrics = [np.array(v) for v in self.model.metrics_variables]
            self.saved_state = json.dumps(self.logger.get_state())
        if self.steps == self.killed_at:
            raise Killed


class Restore(keras.callbacks.Callback):
    def __init__(self, metrics):
        super().__init__()
        self.metrics = metrics

    def on_epoch_begin(self, epoch, logs=None):
        for variable, value in zip(self.model.metrics_variables, self.metrics, strict=True):
            variable.assign(value)


@pytest.mark.slow
@pytest.mark.parametrize(("state_at", "killed_at"), [(2, 7), (5, 8), (6, 7)])
def test_a_killed_run_goes_on_to_the_same_history(config, images, tmp_path, state_at, killed_at):
    fit(new_model(config), images, [HistoryLogger(tmp_path / "whole", 3, BATCH_SIZE)], epochs=3)

    folder = tmp_path / "killed"
    model = new_model(config)
    logger = HistoryLogger(folder, 3, BATCH_SIZE)
    kill = Kill(logger, state_at, killed_at)
    with pytest.raises(Killed):
        fit(model, images, [logger, kill], epochs=3)
    # The process ended while it wrote.
    with open(folder / HISTORY_FILE, "a") as file:
        file.write('{"step": 1')
    (events,) = (folder / EVENTS_FOLDER).iterdir()
    events.write_bytes(events.read_bytes() + events.read_bytes()[:20])

    logger = HistoryLogger(folder, 3, BATCH_SIZE)
    for variable, value in kill.variables:
        variable.assign(value)
    logger.set_state(json.loads(kill.saved_state))
    epoch, done = divmod(state_at, STEPS_PER_EPOCH)
    if done:
        rest = {"skip": done * BATCH_SIZE, "initial_epoch": epoch, "epochs": epoch + 1}
        fit(model, images, [Restore(kill.metrics), logger], **rest)
        epoch += 1
    fit(model, images, [logger], initial_epoch=epoch, epochs=3)
    assert untimed(read_history(folder)) == untimed(read_history(tmp_path / "whole"))
    assert scalars_of(folder) == scalars_in(read_history(folder))


def test_a_new_run_replaces_an_old_history(config, images, tmp_path):
    for epochs in (2, 1):
        fit(new_model(config), images, [HistoryLogger(tmp_path, 5, BATCH_SIZE)], epochs=epochs)
    assert [record["step"] for record in read_history(tmp_path)] == [5, 5]
    assert scalars_of(tmp_path) == scalars_in(read_history(tmp_path))


def test_events_hold_the_records_and_pictures(config, images, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)
    logger = HistoryLogger(
        tmp_path,
        3,
        BATCH_SIZE,
        pictures=lambda model: {"array": array, "pil": Image.fromarray(array[:2])},
    )
    fit(new_model(config), images, [logger], epochs=2)
    assert scalars_of(tmp_path) == scalars_in(read_history(tmp_path))
    pictures = [
        (event.step, value.tag, tf.make_ndarray(value.tensor))
        for event in events_of(tmp_path)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "images"
    ]
    assert [(step, tag) for step, tag, _ in pictures] == [
        (step, tag) for step in (5, 10) for tag in ("array", "pil")
    ]
    for _, tag, (width, height, png) in pictures:
        decoded = tf.io.decode_png(png).numpy()
        np.testing.assert_array_equal(decoded, array if tag == "array" else array[:2])
        assert (int(height), int(width)) == decoded.shape[:2]


def test_without_tensorboard_there_is_a_history(config, images, tmp_path, monkeypatch):
    """Training does not need the extra that brings TensorBoard."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    logger = HistoryLogger(tmp_path, 5, BATCH_SIZE)
    fit(new_model(config), images, [logger], epochs=1)
    HistoryLogger(tmp_path, 5, BATCH_SIZE).set_state(logger.get_state())
    assert [record["step"] for record in read_history(tmp_path)] == [5, 5]
    assert not (tmp_path / EVENTS_FOLDER).exists()


def test_a_loss_that_is_not_a_number_is_null(config, images, tmp_path):
    model = new_model(config, keras.optimizers.SGD(math.inf))
    fit(model, images, [HistoryLogger(tmp_path, 2, BATCH_SIZE)], epochs=1)
    lines = (tmp_path / HISTORY_FILE).read_text()
    assert "NaN" not in lines and "Infinity" not in lines
    assert read_history(tmp_path)[1]["loss"] is None


def test_the_rate_beneath_a_loss_scale(config, images, tmp_path):
    optimizer = keras.optimizers.LossScaleOptimizer(adam(warmup_cosine(0.01, 5, 20)))
    fit(new_model(config, optimizer), images, [HistoryLogger(tmp_path, 5, BATCH_SIZE)], epochs=1)
    done = int(optimizer.iterations)
    assert read_history(tmp_path)[0]["learning_rate"] == pytest.approx(0.01 * (done - 1) / 5)


def test_other_workers_write_nothing(config, images, tmp_path):
    records_seen = []
    logger = HistoryLogger(
        tmp_path / "run", 1, BATCH_SIZE, listeners=[records_seen.append], writes=False
    )
    fit(new_model(config), images, [logger], epochs=1)
    assert not list(tmp_path.iterdir()) and not records_seen


@pytest.mark.slow
def test_on_jax_without_tensorflow_there_is_a_history(images, tmp_path, jax_interpreter):
    np.save(tmp_path / "images.npy", images)
    code = """
        import pathlib, sys, keras, numpy as np, igpt_keras
        from igpt_keras.training.callbacks.divergence_detector import DivergenceDetector
        from igpt_keras.training.callbacks.history_logger import HistoryLogger
        from igpt_keras.training.recipes import adam, warmup_cosine
        from igpt_keras.training.callbacks.progress_bar import ProgressBar
        folder = pathlib.Path(sys.argv[1])
        images = np.load(folder / "images.npy")
        model = igpt_keras.ImageGPT(igpt_keras.ImageGPTConfig(4, 8, 16, 2, 2))
        model.compile(adam(warmup_cosine(0.01, 5, 20)))
        with ProgressBar("jax", ("loss",), form="json") as bar:
            logger = HistoryLogger(folder, 2, 4, listeners=[bar.on_record])
            model.fit(
                images, batch_size=4, epochs=2, callbacks=[DivergenceDetector(10), logger, bar],
                verbose=0,
            )
    """
    printed = jax_interpreter.run(code, tmp_path)
    records = read_history(tmp_path)
    assert [record["step"] for record in records] == [2, 4, 5, 6, 8, 10, 10]
    for record in records[:4]:
        assert record["learning_rate"] == pytest.approx(0.01 * (record["step"] - 1) / 5)
    assert len(printed.splitlines()) == len(records)
    assert not (tmp_path / EVENTS_FOLDER).exists()


def test_what_is_no_history_is_an_error(tmp_path):
    with pytest.raises(InputError, match="history.jsonl does not exist"):
        read_history(tmp_path)
    (tmp_path / HISTORY_FILE).write_text('{"step": 1\n{"step": 2}\n')
    with pytest.raises(InputError, match="history.jsonl is damaged"):
        read_history(tmp_path)
    with pytest.raises(InputError, match="every must be at least 1, got 0"):
        HistoryLogger(tmp_path, 0, 1)
