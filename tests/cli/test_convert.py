import numpy as np
import pytest
from click.testing import CliRunner
from keras import ops

from igpt_keras import InputError, load
from igpt_keras.cli.convert import convert
from tests.conftest import FIXTURES

CAUSAL = FIXTURES / "hf" / "causal"
TOKENS = np.arange(64, dtype=np.int32)[None] % 32


def run(*arguments):
    return CliRunner().invoke(convert, [str(argument) for argument in arguments])


def logits(model):
    return ops.convert_to_numpy(model(TOKENS))


def test_to_folder_and_back(tmp_path):
    folder, back = tmp_path / "folder", tmp_path / "back"

    result = run(CAUSAL, folder)
    assert result.exit_code == 0
    read, wrote = result.output.splitlines()
    count = load(CAUSAL).count_params()
    assert read == (
        f"Read {CAUSAL}: autoregressive model, 8×8 pixels, 32 colors, "
        f"{count:,} parameters, with its palette"
    )
    assert wrote == f"Wrote the model folder {folder}"

    result = run(folder, back, "--to", "huggingface")
    assert result.exit_code == 0
    assert result.output.splitlines()[1] == f"Wrote the Hugging Face folder {back}"
    assert np.array_equal(logits(load(back)), logits(load(folder)))


def test_original_checkpoint(tmp_path):
    pytest.importorskip("tensorflow")
    result = run(FIXTURES / "openai_bert" / "model.ckpt-1000000", tmp_path / "new")
    assert "BERT classifier of 10 classes" in result.output
    assert "without a palette" in result.output
    assert load(tmp_path / "new").objective == "bert"


def test_existing_output_stays_unless_overwritten(tmp_path):
    output = tmp_path / "new"
    assert run(CAUSAL, output).exit_code == 0
    (output / "notes.txt").write_text("mine")
    result = run(CAUSAL, output)
    assert isinstance(result.exception, FileExistsError)
    # Refused before anything is read.
    assert result.output == ""
    assert (output / "notes.txt").read_text() == "mine"

    assert run(CAUSAL, output, "--overwrite").exit_code == 0
    assert not (output / "notes.txt").exists()
    assert load(output).config.image_size == 8


@pytest.mark.parametrize("target", ["folder", "huggingface"])
def test_a_folder_of_other_things_is_never_replaced(tmp_path, target):
    (tmp_path / "notes.txt").write_text("mine")
    result = run(CAUSAL, tmp_path, "--to", target, "--overwrite")
    assert isinstance(result.exception, FileExistsError)
    assert "folder of other things" in str(result.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_failure_leaves_nothing(tmp_path):
    pytest.importorskip("tensorflow")
    source = FIXTURES / "openai_bert" / "model.ckpt-1000000"
    result = run(source, tmp_path / "new", "--to", "huggingface")
    assert isinstance(result.exception, InputError)
    assert not list(tmp_path.iterdir())


def test_unknown_target(tmp_path):
    result = run(CAUSAL, tmp_path / "new", "--to", "torch")
    assert result.exit_code == 2
    assert "'folder', 'huggingface'" in result.output
