import concurrent.futures
import functools
import json
import pathlib
import resource
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import ImageGPT, InputError
from igpt_keras.checksums import write_checksums
from igpt_keras.training.callbacks.checkpoint_manager import (
    CheckpointManager,
    Interrupted,
    stopped_by_signals,
)
from igpt_keras.training.recipes import pretrain
from igpt_keras.training.resumable_fit import _remaining_fits, epoch_ends, resumable_fit
from igpt_keras.training.strategies import make_strategy
from tests.training.stopper import Stopper

STEPS_PER_EPOCH, EPOCHS = 5, 3


class Losses(keras.callbacks.Callback):
    """Keras' loss after every step; its state is how many steps it has seen."""

    def __init__(self):
        super().__init__()
        self.seen, self.losses = 0, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        self.losses.append(logs["loss"])

    def get_state(self):
        return {"seen": self.seen}

    def set_state(self, state):
        self.seen = state["seen"]


def small_model(units=1):
    """A model whose dropout draws other units at every step; a seed is among its variables."""
    layers = [keras.layers.Input([2]), keras.layers.Dropout(0.3), keras.layers.Dense(units)]
    model = keras.Sequential(layers)
    # Tracing takes longer than all steps together.
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", run_eagerly=True)
    return model


def small_batches(step):
    """Endless batches that the step decides."""

    def batch(step):
        inputs = tf.random.stateless_normal([4, 2], tf.stack([3, step]))
        return inputs, tf.reduce_sum(inputs, axis=1, keepdims=True)

    return tf.data.Dataset.range(step, 1000).map(batch)


def train(checkpoints, *, callbacks=(), seed=2, steps_per_epoch=STEPS_PER_EPOCH, units=1):
    """Trains a small model; returns it and its history."""
    keras.utils.set_random_seed(seed)
    model = small_model(units)
    history = resumable_fit(
        model,
        small_batches,
        epochs=EPOCHS,
        steps_per_epoch=steps_per_epoch,
        validation_data=next(iter(small_batches(500))),
        checkpoints=checkpoints,
        callbacks=callbacks,
        verbose=0,
    )
    return model, history


def token_batches(step):
    """Images that count upwards from what the step and the image decide."""

    def batch(step):
        starts = tf.random.stateless_uniform([4, 1], tf.stack([3, step]), 0, 8, tf.int32)
        return (starts + tf.range(16)) % 8

    return tf.data.Dataset.range(step, 1000).map(batch)


def train_image_gpt(
    config,
    checkpoints,
    *,
    objective="ar",
    policy="float32",
    strategy="none",
    callbacks=(),
    seed=2,
):
    keras.utils.set_random_seed(seed)
    with make_strategy(strategy).scope():
        model = ImageGPT(config, objective, dtype=policy)
    validation = np.asarray(next(iter(token_batches(500))))
    masked = validation % 3 == 0
    history = pretrain(
        model,
        token_batches,
        validation if objective == "ar" else {"tokens": validation, "masked": masked},
        epochs=EPOCHS,
        steps_per_epoch=STEPS_PER_EPOCH,
        batch_size=4,
        learning_rate=0.02,
        clip_norm=1.0,
        checkpoints=checkpoints,
        callbacks=callbacks,
        verbose=0,
    )
    return model, history


def all_values(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def names(checkpoints):
    return [path.name for path in checkpoints.paths()]


def assert_same_values(ours, theirs):
    for our_value, their_value in zip(all_values(ours), all_values(theirs), strict=True):
        np.testing.assert_array_equal(our_value, their_value)


def stop_and_resume(train, folder, stops):
    """Stops a training, each time after some more steps; returns what its last process did."""
    for index, (stop, at) in enumerate(stops):
        checkpoints = CheckpointManager(folder, 100)
        # What a resumed training draws to begin with must not matter.
        seed = {"seed": 50 + index} if index else {}
        with pytest.raises(Interrupted, match=f"after step {at}$") as interrupted:
            train(checkpoints, callbacks=[Stopper(checkpoints, stop)], **seed)
        assert interrupted.value.step == at
    return train(CheckpointManager(folder, 100), seed=77)


# In the first epoch, after its last step, in the second, and after the last step of all.
@pytest.mark.parametrize("stops", [[(2, 2), (3, 5), (3, 8)], [(8, 8)], [(5, 5), (5, 10), (5, 15)]])
def test_a_training_that_was_stopped_ends_like_one_that_was_not(whole, tmp_path, stops):
    model, expected = whole
    resumed, history = stop_and_resume(train, tmp_path, stops)
    assert_same_values(resumed, model)
    # Of the epoch that was cut the means go on.
    assert history == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "policy"),
    [
        ("bert", "float32"),
        ("ar", "float32"),
        ("ar", "mixed_float16"),
    ],
)
def test_an_image_gpt_that_was_stopped_ends_like_one_that_was_not(
    config, tmp_path, objective, policy
):
    train = functools.partial(train_image_gpt, config, objective=objective, policy=policy)
    model, expected = train(CheckpointManager(tmp_path / "whole", 100))
    resumed, history = stop_and_resume(train, tmp_path / "cut", [(8, 8)])
    assert_same_values(resumed, model)
    assert history == expected


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model that was trained without a stop, and its history."""
    return train(CheckpointManager(tmp_path_factory.mktemp("whole"), 100))


LENGTHS = {"steps_per_epoch": [4, 4, 3]}


@pytest.fixture(scope="module")
def whole_of_lengths(tmp_path_factory):
    """The same in epochs of different lengths."""
    return train(CheckpointManager(tmp_path_factory.mktemp("whole"), 100), **LENGTHS)


@pytest.mark.parametrize("stops", [[(3, 3)], [(4, 4), (1, 5)], [(9, 9)]])
def test_epochs_may_have_different_lengths(whole_of_lengths, tmp_path, stops):
    """Stops within an epoch whose rest is as long as the next one, and at the end of one."""
    whole, expected = whole_of_lengths
    for stop, at in stops:
        checkpoints = CheckpointManager(tmp_path / "cut", 100)
        with pytest.raises(Interrupted, match=f"after step {at}$"):
            train(checkpoints, callbacks=[Stopper(checkpoints, stop)], **LENGTHS)
    losses = Losses()
    resumed, history = train(
        CheckpointManager(tmp_path / "cut", 100), callbacks=[losses], **LENGTHS
    )
    assert losses.seen == 11 - stops[-1][1]
    assert_same_values(resumed, whole)
    assert history == expected and len(history["loss"]) == 3


def test_fits_cover_every_step_once():
    """Whatever the lengths and the step, compared with a list of all steps."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        ends = epoch_ends(generator.integers(1, 4, 6).tolist(), 6)
        epochs = np.searchsorted(ends, np.arange(ends[-1]), side="right")
        step = int(generator.integers(0, ends[-1] + 1))
        trained = []
        for start, first, last, steps in _remaining_fits(step, ends):
            assert start == step + len(trained)
            trained += np.repeat(np.arange(first, last), steps).tolist()
        assert trained == epochs[step:].tolist()


@pytest.mark.parametrize(
    ("lengths", "message"),
    [([3, 3], "one for each of the 3 epochs, got 2"), ([3, 0, 3], "must be at least 1, got 0")],
)
def test_lengths_that_fit_no_epochs(lengths, message):
    with pytest.raises(InputError, match=message):
        epoch_ends(lengths, 3)


def test_states_are_written_every_few_steps_and_the_last_stay(tmp_path):
    checkpoints = CheckpointManager(tmp_path, 2, max_to_keep=4)
    written = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            written.extend(name for name in names(checkpoints) if name not in written)

    train(checkpoints, callbacks=[Watch()])
    steps = [2, 4, 5, 6, 8, 10, 12, 14]
    assert written == [f"step-{step:08d}" for step in steps]
    assert names(checkpoints) == [f"step-{step:08d}" for step in (10, 12, 14, 15)]


def test_callbacks_go_on_from_what_they_knew(tmp_path):
    losses = Losses()
    checkpoints = CheckpointManager(tmp_path, 100, callbacks={"losses": losses})
    with pytest.raises(Interrupted):
        train(checkpoints, callbacks=[losses, Stopper(checkpoints, 7)])
    again = Losses()
    checkpoints = CheckpointManager(tmp_path, 100, callbacks={"losses": again})
    train(checkpoints, callbacks=[again])
    assert (losses.seen, again.seen) == (7, 15)
    whole = Losses()
    train(CheckpointManager(tmp_path / "whole", 100), callbacks=[whole])
    assert [*losses.losses, *again.losses] == whole.losses


def test_a_callback_may_be_new_in_a_training_that_goes_on(tmp_path):
    checkpoints = CheckpointManager(tmp_path, 100)
    with pytest.raises(Interrupted):
        train(checkpoints, callbacks=[Stopper(checkpoints, 7)])
    losses = Losses()
    train(CheckpointManager(tmp_path, 100, callbacks={"losses": losses}), callbacks=[losses])
    assert losses.seen == 8


def test_a_state_that_cannot_be_written_leaves_the_last_one(whole, tmp_path):
    checkpoints = CheckpointManager(tmp_path, 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Full(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if names(checkpoints):
                resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))

    try:
        with pytest.raises(OSError, match="arrays.safetensors cannot be written"):
            train(checkpoints, callbacks=[Full()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == names(checkpoints) == ["step-00000003"]
    resumed, _ = train(CheckpointManager(tmp_path, 3))
    assert_same_values(resumed, whole[0])


def test_unusable_states(tmp_path):
    checkpoints = CheckpointManager(tmp_path, 100)
    train(checkpoints)
    (path,) = checkpoints.paths()[-1:]
    with pytest.raises(InputError, match="the checkpoint of another model"):
        train(CheckpointManager(tmp_path, 100), units=2)
    about = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps({**about, "format_version": 9}))
    (path / "SHA256SUMS").unlink()
    write_checksums(path)
    with pytest.raises(InputError, match="format_version 9; this version reads 3"):
        train(CheckpointManager(tmp_path, 100))


def cut(file):
    file.write_bytes(file.read_bytes()[:-9])


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


DAMAGES = [cut, flip_a_bit, pathlib.Path.unlink, lambda file: file.write_bytes(b"")]


@pytest.mark.parametrize("name", ["arrays.safetensors", "checkpoint.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_restored(stopped, tmp_path, damage, name):
    folder = tmp_path / "stopped"
    shutil.copytree(stopped, folder)
    before, last = names(CheckpointManager(folder, 1))
    damage(folder / last / name)
    model = small_model()
    with pytest.warns(UserWarning, match=f"{last} is damaged: .* resumes from {before}"):
        step = CheckpointManager(folder, 1).restore(model)
    assert before == f"step-{step:08d}"
    assert [path.name for path in folder.iterdir()] == [before]
    damage(folder / before / name)
    with pytest.raises(InputError, match=f"every checkpoint in .* is damaged .*{before}: "):
        CheckpointManager(folder, 1).restore(model)


def test_training_from_the_checkpoint_before_ends_the_same(stopped, whole, tmp_path):
    shutil.copytree(stopped, tmp_path / "stopped")
    checkpoints = CheckpointManager(tmp_path / "stopped", 1)
    cut(checkpoints.paths()[-1] / "arrays.safetensors")
    with pytest.warns(UserWarning, match="is damaged"):
        resumed, _ = train(checkpoints)
    assert_same_values(resumed, whole[0])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of two checkpoints, of steps 3 and 4."""
    folder = tmp_path_factory.mktemp("stopped")
    checkpoints = CheckpointManager(folder, 1)
    with pytest.raises(Interrupted):
        train(checkpoints, callbacks=[Stopper(checkpoints, 4)])
    return folder


@pytest.mark.parametrize("argument", ["every", "max_to_keep"])
def test_unusable_settings(tmp_path, argument):
    with pytest.raises(InputError, match=f"{argument} must be at least 1"):
        CheckpointManager(tmp_path, **{"every": 1, argument: 0})


def test_an_array_has_no_position_to_go_on_from(config, tmp_path, counting):
    tokens, _ = counting
    with pytest.raises(InputError, match="checkpoints need train as a function"):
        pretrain(
            ImageGPT(config), tokens, tokens, epochs=1, checkpoints=CheckpointManager(tmp_path, 1)
        )


@pytest.mark.slow
def test_replicas_go_on_where_they_stopped(config, tmp_path):
    train = functools.partial(train_image_gpt, config)
    whole, _ = train(CheckpointManager(tmp_path / "whole", 100))
    checkpoints = CheckpointManager(tmp_path / "cut", 100)
    with pytest.raises(Interrupted):
        train(checkpoints, strategy="mirrored", callbacks=[Stopper(checkpoints, 7)])
    resumed, _ = train(CheckpointManager(tmp_path / "cut", 100), strategy="mirrored")
    for ours, theirs in zip(all_values(resumed), all_values(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_a_thread_leaves_signals_alone(tmp_path):
    def train():
        with stopped_by_signals(CheckpointManager(tmp_path)):
            return signal.getsignal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        assert threads.submit(train).result() is before
    # The main thread handles them until the training ends.
    assert train() is not before
    assert signal.getsignal(signal.SIGTERM) is before
