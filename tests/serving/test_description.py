"""What an export says of itself, which anybody may have written."""

import json
import os

import pytest

from igpt_keras.errors import InputError
from serving.description import MAX_BYTES, Description


def test_what_is_written_is_read(tmp_path):
    described = Description(32, 'of "32" pixels\n</script>\x00', ("chat", "écureuil", ""))
    described.write(tmp_path / "igpt.json")
    assert Description.read(tmp_path / "igpt.json") == described
    assert "label_names" not in json.loads((tmp_path / "igpt.json").read_text())
    conditional = Description(32, "", ("chat",), ("écureuil", "chat"))
    conditional.write(tmp_path / "igpt.json")
    assert Description.read(tmp_path / "igpt.json") == conditional


def test_without_the_file_nothing_is_known(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("igpt.json", "pipe"):  # Opening a pipe would wait for a writer.
        assert Description.read(tmp_path / name) == Description(None, "", ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": "32"}, "image_size must be an integer from 1 to 4096"),
        ({"image_size": True}, "image_size must be an integer from 1 to 4096"),
        ({"image_size": 10**300}, "image_size must be an integer from 1 to 4096"),
        ({"description": ["large"]}, "description must be a string"),
        ({"description": None}, "description must be a string"),
        ({"class_names": "cat"}, "class_names must be a list of strings"),
        ({"class_names": ["cat", 1]}, "class_names must be a list of strings"),
        ({"label_names": "cat"}, "label_names must be a list of strings"),
        ({"description": "x" * MAX_BYTES}, "must have at most 4,194,304 bytes, got 4,19"),
    ],
)
def test_other_content_is_refused(tmp_path, change, message):
    path = tmp_path / "igpt.json"
    good = {"image_size": 32, "description": "small", "class_names": ["cat"]}
    path.write_text(json.dumps({**good, **change}))
    with pytest.raises(InputError, match=message):
        Description.read(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"image_size": 1}'])
def test_other_json_is_refused(tmp_path, text):
    path = tmp_path / "igpt.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"igpt\.json"):
        Description.read(path)
