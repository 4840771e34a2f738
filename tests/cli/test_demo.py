"""`igpt demo`: models become a page, and nothing is left of it."""

import json
import re
import signal
import urllib.request

import pytest

from igpt_keras.cli.demo import distinct_names
from igpt_keras.cli.options import SHIPPED_MODEL
from igpt_keras.errors import InputError
from tests.cli import processes


def test_models_have_the_ends_of_their_paths_as_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert distinct_names(["runs/photos", "digits/"]) == ["photos", "digits"]
    assert distinct_names(["a/model", "b/model", "b/other"]) == ["a-model", "b-model", "b-other"]
    assert distinct_names(["hf://openai/imagegpt-small"]) == ["imagegpt-small"]
    assert distinct_names([".", "my photos/", ".."]) == [
        tmp_path.name,
        "my-photos",
        tmp_path.parent.name,
    ]
    with pytest.raises(InputError, match=r"got \./a twice"):
        distinct_names(["a", "b", "./a"][::-1])


@pytest.mark.parametrize("given", ["missing", "version", "empty"])
def test_what_is_no_model_is_an_error_that_leaves_nothing(igpt, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "version").mkdir()
    (tmp_path / "version" / "saved_model.pb").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    status, _, errors = igpt("demo", given)
    assert (status, errors.count("\n")) == (2, 1)
    assert given in errors
    assert not list((tmp_path / "temporary").iterdir())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def exports(tmp_path):
    """Temporary folders; TensorFlow leaves another one there."""
    return list((tmp_path / "temporary").glob("igpt-*"))


@pytest.mark.slow
def test_without_a_model_the_page_has_the_one_of_the_package(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    process = processes.start("demo", "--port", "0")
    try:
        assert process.stdout.readline().startswith(f"Exporting {SHIPPED_MODEL}")
        address = process.stdout.readline().split(" is the page")[0]
        with urllib.request.urlopen(f"{address}v1/models") as answer:
            (offered,) = json.load(answer)["models"]
        assert offered["name"] == SHIPPED_MODEL and offered["streams"]
        assert exports(tmp_path)
    finally:
        process.terminate()
        status, _, errors = processes.finish(process)
    assert status == 0, errors
    assert not exports(tmp_path)


@pytest.mark.slow
def test_a_page_with_models_opens_until_ctrl_c(pretrained, igpt, tmp_path, monkeypatch):
    model = pretrained("ar")
    assert igpt("export", model, "--output", tmp_path / "served")[0] == 0
    (tmp_path / "temporary").mkdir()
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path / "opened"}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("BROWSER", str(browser))
    process = processes.start("demo", model, tmp_path / "served", "--port", "0")
    try:
        assert process.stdout.readline().startswith(f"Exporting {model}")
        line = process.stdout.readline()
        address = re.fullmatch(r"(http://127\.0\.0\.1:\d+/) is the page; Ctrl-C ends it\n", line)[1]
        with urllib.request.urlopen(address) as answer:
            assert "<title>Image GPT</title>" in answer.read().decode()
        with urllib.request.urlopen(f"{address}v1/models") as answer:
            offered = json.load(answer)["models"]
        assert [each["name"] for each in offered] == [model.name, "served"]
        assert all(each["streams"] for each in offered)
        assert exports(tmp_path)
        while not (tmp_path / "opened").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        status, _, errors = processes.finish(process)
        assert status == 0, errors
        assert (tmp_path / "opened").read_text() == f"{address}\n"
        assert not exports(tmp_path)
    finally:
        process.kill()


@pytest.mark.slow
def test_a_signal_during_the_export_leaves_nothing(pretrained, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    process = processes.start("demo", pretrained("ar"), "--no-browser")
    try:
        assert process.stdout.readline().startswith("Exporting ")
        process.send_signal(signal.SIGTERM)
        status, printed, _ = processes.finish(process)
        assert (status, printed) == (128 + signal.SIGTERM, "")
        assert not exports(tmp_path)
    finally:
        process.kill()
