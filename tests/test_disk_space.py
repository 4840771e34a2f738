"""Files that do not fit, by the largest file that this process may write."""

import contextlib
import resource

import keras
import numpy as np
import pytest

from igpt_keras import ImageGPT, ImageGPTConfig
from igpt_keras.atomic import atomic_path
from igpt_keras.disk_space import check_space, create_array


@contextlib.contextmanager
def largest_file(size):
    """What is refused beyond this limit (EFBIG) is refused by a full disk as well (ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_array_is_its_file_whose_space_is_taken(tmp_path):
    array = create_array(tmp_path / "array.npy", np.float32, (1000, 3))
    assert not array.any()
    array[500:] = np.arange(3)
    array.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "array.npy"), array)
    status = (tmp_path / "array.npy").stat()
    # A file with holes would have fewer blocks, which are counted by 512 bytes.
    assert status.st_blocks * 512 >= status.st_size > array.nbytes


def test_an_array_that_does_not_fit_leaves_no_file(tmp_path):
    path = tmp_path / "array.npy"
    with largest_file(10_000), pytest.raises(OSError, match=r"too large: '.*array.npy'"):
        create_array(path, np.float32, (1000, 3))
    assert not path.exists()


def test_space_is_checked_and_not_kept(tmp_path):
    with largest_file(10_000):
        check_space(tmp_path / "file", 10_000)
        with pytest.raises(OSError, match=r"too large: '.*file'"):
            check_space(tmp_path / "file", 10_001)
    assert not list(tmp_path.iterdir())


def test_an_error_of_a_full_disk_names_the_path(tmp_path):
    with largest_file(10), pytest.raises(OSError, match=r"too large: '.*name.txt'"):
        with atomic_path(tmp_path / "name.txt") as partial:
            partial.write_text("more than ten bytes")
    with pytest.raises(OSError, match="^another$"), atomic_path(tmp_path / "name.txt"):
        raise OSError("another")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_does_not_fit_is_refused_before_it_is_written(
    tmp_path, monkeypatch, palette, dtype, trained
):
    config = ImageGPTConfig(4, 8, hidden_dim=8, num_layers=3, num_heads=1)
    model = ImageGPT(config, tokenizer=palette, dtype=dtype)
    if trained:
        model.compile()
        model.optimizer.build(model.trainable_variables)
    path = model.save_to_preset(tmp_path / "model")
    # Of which HDF5 takes more than half, as the model is tiny.
    size = (path / "model.weights.h5").stat().st_size
    monkeypatch.setattr(keras.Model, "save_weights", lambda *arguments: pytest.fail("written"))
    for largest in (1000, size // 2, size - 1):
        with largest_file(largest), pytest.raises(OSError, match="too large: .*model.weights.h5"):
            model.save_to_preset(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
