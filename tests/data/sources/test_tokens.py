import numpy as np
import pytest

from igpt_keras import ColorPalette, InputError
from igpt_keras.data.data_set import open_data
from igpt_keras.data.source import Source
from igpt_keras.data.sources import register_source, source_kinds
from igpt_keras.data.splits import ArraySplit
from igpt_keras.data.stream import TrainingStream
from igpt_keras.data.tokenization import read_images, tokenize
from igpt_keras.pipelines.tokens import write_tokens
from tests.data.properties import check_hold_out, check_split, records
from tests.pipelines.serial import SerialRunner

GREYS = ColorPalette(np.repeat(np.arange(256)[:, None] / 127.5 - 1, 3, axis=1)).bind(2)
COUNT = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tokens of images with a gray of their own, 150 to train and 40 to test."""
    folder = tmp_path_factory.mktemp("tokens")
    grays = np.arange(COUNT, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(grays, (COUNT, 2, 2, 3))
    arrays = {"images": images, "labels": np.arange(COUNT) % 3}
    np.savez(
        folder / "images.npz",
        **arrays,
        **{
            f"{split}_{key}": value[:40]
            for split in ("test", "val")
            for key, value in arrays.items()
        },
    )
    settings = {"tokenizer": GREYS, "images_per_shard": 32, "runner": SerialRunner()}
    write_tokens(f"array:{folder / 'images.npz'}", folder / "tokens", **settings)
    return folder / "tokens"


@pytest.fixture
def data(folder):
    return open_data(f"tokens:{folder}")


@pytest.mark.slow
def test_a_split_of_tokens_is_a_split(data):
    check_split(data.train)


def test_records_are_tokens(data):
    assert data.train.num_examples == COUNT
    first = next(records(data.train, data.train.in_order()))
    assert (first.image.dtype, first.name, first.label) == (np.int32, "0", 0)


def test_random_images_are_held_out(data):
    train, held_out = check_hold_out(data.train, 0.1, 15)
    grays = tokenize(held_out, GREYS).tokens[:, 0]
    assert (np.diff(grays) > 0).all() and grays.max() - grays.min() > 50
    assert train.fingerprint() != held_out.fingerprint() != data.train.fingerprint()
    assert held_out.fingerprint() == data.train.hold_out(0.1, 3)[1].fingerprint()


def test_validation_can_be_trained_on(folder):
    data = open_data(f"tokens:{folder}", train_on_validation=True)
    grays = tokenize(data.train, GREYS).tokens[:, 0]
    np.testing.assert_array_equal(grays, [*range(COUNT), *range(40)])


def test_streams_depend_on_seed_and_step_only(data):
    def batches(seed, start, count, **workers):
        stream = TrainingStream(data.sources, GREYS, batch_size=30, seed=seed, labels=True)
        taken = stream.dataset(start, **workers).take(count)
        return [np.column_stack(pair) for pair in taken.as_numpy_iterator()]

    whole = batches(1, 0, 10)
    np.testing.assert_array_equal(batches(1, 7, 3), whole[7:])
    assert (batches(2, 0, 1)[0] != whole[0]).any()
    shares = [batches(1, 0, 2, worker=worker, num_workers=3) for worker in range(3)]
    for step in range(2):
        together = np.stack([share[step] for share in shares], axis=1).reshape(30, -1)
        np.testing.assert_array_equal(together, whole[step])
    epoch = np.concatenate(whole[:5])
    assert sorted(epoch[:, 0]) == list(range(COUNT))
    np.testing.assert_array_equal(epoch[:, 0] % 3, epoch[:, -1])
    # Images of one shard do not stay together.
    assert len({gray // 32 for gray in whole[0][:, 0]}) == 5


def test_tokens_and_images_can_be_mixed(data):
    images = np.full((50, 2, 2, 3), 255, np.uint8)
    if "white" not in source_kinds.names():
        register_source("white")(lambda: Source(ArraySplit("white", images)))
    mixed = open_data([data.specs[0] + "@weight=1", "white@weight=1"])
    stream = TrainingStream(mixed.sources, GREYS, batch_size=64)
    grays = next(iter(stream.dataset()))[:, 0].numpy()
    assert 10 < (grays == 255).sum() < 54 and (grays < COUNT).sum() == (grays != 255).sum()


def test_tokens_need_the_tokenizer_that_made_them(data):
    other = ColorPalette(np.random.default_rng(0).uniform(-1, 1, (8, 3)))
    for tokenizer in (other.bind(2), GREYS.bind(4)):
        with pytest.raises(InputError, match="holds the tokens of another tokenizer"):
            tokenize(data.train, tokenizer)
        with pytest.raises(InputError, match="holds the tokens of another tokenizer"):
            TrainingStream(data.sources, tokenizer, batch_size=2).dataset()


def test_tokens_cannot_be_augmented(data):
    with pytest.raises(InputError, match="augmentation must be none .* tokens already, got cifar"):
        TrainingStream(data.sources, GREYS, batch_size=2, augmentation="cifar")
    with pytest.raises(InputError, match="augmentation must be none .* got imagenet"):
        tokenize(data.test, GREYS, augmentation="imagenet")


def test_images_are_those_that_the_tokens_stand_for(data):
    np.testing.assert_array_equal(read_images(data.test, 2).images[:, 0, 0, 0], np.arange(40))


def test_folders_that_are_damaged(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokens.json"):
        open_data(f"tokens:{tmp_path}")
    (tmp_path / "tokens.json").write_text('{"format": 2}')
    with pytest.raises(InputError, match="must have the format 1, got 2"):
        open_data(f"tokens:{tmp_path}")
    (tmp_path / "tokens.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="does not describe a folder of tokens"):
        open_data(f"tokens:{tmp_path}")
    (tmp_path / "tokens.json").write_text((folder / "tokens.json").read_text())
    (tmp_path / "tokenizer").mkdir()
    ColorPalette([[0.0, 0.0, 0.0]]).save_to_preset(tmp_path / "tokenizer")
    with pytest.raises(InputError, match="it was not made with its tokenizer"):
        open_data(f"tokens:{tmp_path}")
