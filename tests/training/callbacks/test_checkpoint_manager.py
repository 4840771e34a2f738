import json
import pathlib
import resource
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import ImageGPT, ImageGPTConfig, InputError
from igpt_keras.checksums import write_checksums
from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager, Interrupted
from igpt_keras.training.recipes import adam, pretrain, warmup_cosine
from igpt_keras.training.resumable_fit import _remaining_fits, epoch_ends
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


def batches(step):
    """Images that count upwards from what the step and the image decide."""

    def batch(step):
        starts = tf.random.stateless_uniform([4, 1], tf.stack([3, step]), 0, 8, tf.int32)
        return (starts + tf.range(16)) % 8

    return tf.data.Dataset.range(step, 1000).map(batch)


def train(
    config,
    checkpoints,
    *,
    objective="ar",
    policy="float32",
    callbacks=(),
    seed=2,
    steps_per_epoch=STEPS_PER_EPOCH,
):
    keras.utils.set_random_seed(seed)
    model = ImageGPT(config, objective, dtype=policy)
    validation = np.asarray(next(iter(batches(500))))
    masked = validation % 3 == 0
    inputs = validation if objective == "ar" else {"tokens": validation, "masked": masked}
    settings = {"epochs": EPOCHS, "steps_per_epoch": steps_per_epoch, "batch_size": 4}
    history = pretrain(
        model,
        batches,
        inputs,
        **settings,
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


@pytest.mark.parametrize(
    ("objective", "policy", "stops"),
    [
        # In the first epoch, after its last step, and in the second.
        ("ar", "float32", [(2, 2), (3, 5), (3, 8)]),
        ("bert", "float32", [(8, 8)]),
        pytest.param("ar", "mixed_float16", [(8, 8)], marks=pytest.mark.slow),
    ],
)
def test_a_training_that_was_stopped_ends_like_one_that_was_not(
    config, tmp_path, objective, policy, stops
):
    kind = {"objective": objective, "policy": policy}
    whole, expected = train(config, CheckpointManager(tmp_path / "whole", 100), **kind)
    for index, (stop, at) in enumerate(stops):
        checkpoints = CheckpointManager(tmp_path / "cut", 100)
        # What a resumed training draws to begin with must not matter.
        seed = {"seed": 50 + index} if index else {}
        with pytest.raises(Interrupted, match=f"after step {at}$") as interrupted:
            train(config, checkpoints, callbacks=[Stopper(checkpoints, stop)], **kind, **seed)
        assert interrupted.value.step == at
    checkpoints = CheckpointManager(tmp_path / "cut", 100)
    resumed, history = train(config, checkpoints, **kind, seed=77)
    for ours, theirs in zip(all_values(resumed), all_values(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # Of the epoch that was cut the means go on.
    assert history == expected


@pytest.mark.parametrize("stops", [[(3, 3)], [(4, 4), (1, 5)], [(9, 9)]])
def test_epochs_may_have_different_lengths(config, tmp_path, stops):
    """Stops within an epoch whose rest is as long as the next one, and at the end of one."""
    lengths = {"steps_per_epoch": [4, 4, 3]}
    whole, expected = train(config, CheckpointManager(tmp_path / "whole", 100), **lengths)
    for stop, at in stops:
        checkpoints = CheckpointManager(tmp_path / "cut", 100)
        with pytest.raises(Interrupted, match=f"after step {at}$"):
            train(config, checkpoints, callbacks=[Stopper(checkpoints, stop)], **lengths)
    losses = Losses()
    resumed, history = train(
        config, CheckpointManager(tmp_path / "cut", 100), callbacks=[losses], **lengths
    )
    assert losses.seen == 11 - stops[-1][1]
    for ours, theirs in zip(all_values(resumed), all_values(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
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


def test_nothing_is_left_to_do_after_the_last_step(config, tmp_path):
    first, expected = train(config, CheckpointManager(tmp_path, 100))
    again, history = train(config, CheckpointManager(tmp_path, 100))
    assert history == expected
    for ours, theirs in zip(all_values(again), all_values(first), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_states_are_written_every_few_steps_and_the_last_stay(config, tmp_path):
    checkpoints = CheckpointManager(tmp_path, 2, max_to_keep=4)
    written = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            written.extend(name for name in names(checkpoints) if name not in written)

    train(config, checkpoints, callbacks=[Watch()])
    steps = [2, 4, 5, 6, 8, 10, 12, 14]
    assert written == [f"step-{step:08d}" for step in steps]
    assert names(checkpoints) == [f"step-{step:08d}" for step in (10, 12, 14, 15)]


def test_callbacks_go_on_from_what_they_knew(config, tmp_path):
    losses = Losses()
    checkpoints = CheckpointManager(tmp_path, 100, callbacks={"losses": losses})
    with pytest.raises(Interrupted):
        train(config, checkpoints, callbacks=[losses, Stopper(checkpoints, 7)])
    again = Losses()
    checkpoints = CheckpointManager(tmp_path, 100, callbacks={"losses": again})
    train(config, checkpoints, callbacks=[again])
    assert (losses.seen, again.seen) == (7, 15)
    whole = Losses()
    train(config, CheckpointManager(tmp_path / "whole", 100), callbacks=[whole])
    assert [*losses.losses, *again.losses] == whole.losses


def test_a_callback_may_be_new_in_a_training_that_goes_on(config, tmp_path):
    checkpoints = CheckpointManager(tmp_path, 100)
    with pytest.raises(Interrupted):
        train(config, checkpoints, callbacks=[Stopper(checkpoints, 7)])
    losses = Losses()
    train(
        config, CheckpointManager(tmp_path, 100, callbacks={"losses": losses}), callbacks=[losses]
    )
    assert losses.seen == 8


def test_a_state_that_cannot_be_written_leaves_the_last_one(config, tmp_path):
    checkpoints = CheckpointManager(tmp_path, 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Full(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if names(checkpoints):
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    try:
        with pytest.raises(OSError, match="arrays.safetensors cannot be written"):
            train(config, checkpoints, callbacks=[Full()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == names(checkpoints) == ["step-00000003"]
    resumed, _ = train(config, CheckpointManager(tmp_path, 3))
    whole, _ = train(config, CheckpointManager(tmp_path / "whole", 100))
    for ours, theirs in zip(all_values(resumed), all_values(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_unusable_states(config, tmp_path):
    checkpoints = CheckpointManager(tmp_path, 100)
    train(config, checkpoints)
    (path,) = checkpoints.paths()[-1:]
    wider = config.__class__(**{**config.to_dict(), "hidden_dim": 32})
    with pytest.raises(InputError, match="the checkpoint of another model"):
        train(wider, CheckpointManager(tmp_path, 100))
    about = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps({**about, "format_version": 9}))
    (path / "SHA256SUMS").unlink()
    write_checksums(path)
    with pytest.raises(InputError, match="format_version 9; this version reads 3"):
        train(config, CheckpointManager(tmp_path, 100))


def cut(file):
    file.write_bytes(file.read_bytes()[:-9])


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


DAMAGES = [cut, flip_a_bit, pathlib.Path.unlink, lambda file: file.write_bytes(b"")]


@pytest.mark.parametrize("name", ["arrays.safetensors", "checkpoint.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_restored(config, stopped, tmp_path, damage, name):
    folder = tmp_path / "stopped"
    shutil.copytree(stopped, folder)
    before, last = names(CheckpointManager(folder, 1))
    damage(folder / last / name)
    model = compiled(config)
    with pytest.warns(UserWarning, match=f"{last} is damaged: .* resumes from {before}"):
        step = CheckpointManager(folder, 1).restore(model)
    assert before == f"step-{step:08d}"
    assert [path.name for path in folder.iterdir()] == [before]
    damage(folder / before / name)
    with pytest.raises(InputError, match=f"every checkpoint in .* is damaged .*{before}: "):
        CheckpointManager(folder, 1).restore(model)


def test_training_from_the_checkpoint_before_ends_the_same(config, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "stopped")
    checkpoints = CheckpointManager(tmp_path / "stopped", 1)
    cut(checkpoints.paths()[-1] / "arrays.safetensors")
    with pytest.warns(UserWarning, match="is damaged"):
        resumed, _ = train(config, checkpoints)
    whole, _ = train(config, CheckpointManager(tmp_path / "whole", 100))
    for ours, theirs in zip(all_values(resumed), all_values(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of two checkpoints, of steps 3 and 4."""
    folder = tmp_path_factory.mktemp("stopped")
    config = ImageGPTConfig(4, 8, hidden_dim=16, num_layers=2, num_heads=2)
    checkpoints = CheckpointManager(folder, 1)
    with pytest.raises(Interrupted):
        train(config, checkpoints, callbacks=[Stopper(checkpoints, 4)])
    return folder


def compiled(config):
    model = ImageGPT(config)
    model.compile(adam(warmup_cosine(0.02, 1, 2), clip_norm=1.0))
    return model


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
    whole, _ = train(config, CheckpointManager(tmp_path / "whole", 100))
    checkpoints = CheckpointManager(tmp_path / "cut", 100)
    with make_strategy("mirrored").scope():
        with pytest.raises(Interrupted):
            train(config, checkpoints, callbacks=[Stopper(checkpoints, 7)])
        resumed, _ = train(config, CheckpointManager(tmp_path / "cut", 100))
    for ours, theirs in zip(all_values(resumed), all_values(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
