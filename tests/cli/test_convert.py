import numpy as np
import pytest
from keras import ops

from igpt_keras import load
from tests.conftest import FIXTURES

CAUSAL = FIXTURES / "hf" / "causal"
ORIGINAL = FIXTURES / "openai_bert" / "model.ckpt-1000000"
TOKENS = np.arange(64, dtype=np.int32)[None] % 32


def logits(model):
    return ops.convert_to_numpy(model(TOKENS))


def test_to_folder_and_back(igpt, tmp_path):
    folder, back = tmp_path / "folder", tmp_path / "back"
    status, printed, errors = igpt("convert", CAUSAL, folder)
    assert status == 0, errors
    read, wrote = printed.splitlines()
    count = load(CAUSAL).count_params()
    assert read == (
        f"Read {CAUSAL}: autoregressive model, 8×8 pixels, 32 colors, "
        f"{count:,} parameters, with its tokenizer"
    )
    assert wrote == f"Wrote the model folder {folder}"

    status, printed, errors = igpt("convert", folder, back, "--to", "huggingface")
    assert status == 0, errors
    assert printed.splitlines()[1] == f"Wrote the Hugging Face folder {back}"
    assert np.array_equal(logits(load(back)), logits(load(folder)))


def test_original_checkpoint(igpt, tmp_path):
    pytest.importorskip("tensorflow")
    _, printed, _ = igpt("convert", ORIGINAL, tmp_path / "new")
    assert "BERT classifier of 10 classes" in printed
    assert "without a tokenizer" in printed
    assert load(tmp_path / "new").objective == "bert"


def test_existing_output_stays_unless_overwritten(igpt, tmp_path):
    output = tmp_path / "new"
    assert igpt("convert", CAUSAL, output)[0] == 0
    (output / "notes.txt").write_text("mine")
    status, printed, errors = igpt("convert", CAUSAL, output)
    # Refused before anything is read.
    assert (status, printed) == (2, "")
    assert f"{output} exists already" in errors
    assert (output / "notes.txt").read_text() == "mine"

    assert igpt("convert", CAUSAL, output, "--overwrite")[0] == 0
    assert not (output / "notes.txt").exists()
    assert load(output).config.image_size == 8


@pytest.mark.parametrize("target", ["folder", "huggingface"])
def test_a_folder_of_other_things_is_never_replaced(igpt, tmp_path, target):
    (tmp_path / "notes.txt").write_text("mine")
    status, _, errors = igpt("convert", CAUSAL, tmp_path, "--to", target, "--overwrite")
    assert status == 2
    assert "folder of other things" in errors
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_failure_leaves_nothing(igpt, tmp_path):
    pytest.importorskip("tensorflow")
    status, _, errors = igpt("convert", ORIGINAL, tmp_path / "new", "--to", "huggingface")
    assert (status, errors.count("\n")) == (2, 1)
    assert not list(tmp_path.iterdir())


def test_unknown_target(igpt, tmp_path):
    status, _, errors = igpt("convert", CAUSAL, tmp_path / "new", "--to", "torch")
    assert status == 2
    assert "'folder', 'huggingface'" in errors
