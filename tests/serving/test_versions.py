import concurrent.futures
import pathlib

import pytest

from igpt_keras import InputError
from serving.versions import check_version, publish, version_folders


def complete_folder(directory, content):
    partial = pathlib.Path(directory, content)
    partial.mkdir(parents=True)
    (partial / "saved_model.pb").write_text(content)
    return partial


def contents(directory):
    return {
        version: (path / "saved_model.pb").read_text()
        for version, path in version_folders(directory).items()
    }


def test_versions_are_numbered(tmp_path):
    work, directory = tmp_path / "work", tmp_path / "served"
    directory.mkdir()
    assert publish(complete_folder(work, "a"), directory) == directory / "1"
    assert publish(complete_folder(work, "b"), directory, version=7) == directory / "7"
    assert publish(complete_folder(work, "c"), directory) == directory / "8"
    assert contents(directory) == {1: "a", 7: "b", 8: "c"}


def test_exports_side_by_side_get_a_version_each(tmp_path):
    directory = tmp_path / "served"
    directory.mkdir()
    partials = [complete_folder(tmp_path / "work", f"model {index}") for index in range(40)]
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        paths = list(threads.map(lambda partial: publish(partial, directory), partials))
    assert len(set(paths)) == 40
    assert sorted(contents(directory)) == list(range(1, 41))
    assert sorted(contents(directory).values()) == sorted(f"model {index}" for index in range(40))


def test_an_existing_version_is_never_overwritten(tmp_path):
    directory = tmp_path / "served"
    directory.mkdir()
    publish(complete_folder(tmp_path / "work", "old"), directory, version=3)
    with pytest.raises(FileExistsError, match="3 exists already; versions are never overwritten"):
        publish(complete_folder(tmp_path / "work", "new"), directory, version=3)
    with pytest.raises(FileExistsError, match="3 exists already"):
        check_version(directory, 3)
    assert contents(directory) == {3: "old"}


def test_a_file_is_not_overwritten_either(tmp_path):
    (tmp_path / "1").write_text("a file")
    assert publish(complete_folder(tmp_path / "work", "new"), tmp_path) == tmp_path / "2"
    assert (tmp_path / "1").read_text() == "a file"


def test_versions_begin_at_one(tmp_path):
    with pytest.raises(InputError, match="version must be at least 1 .*, got 0"):
        check_version(tmp_path, 0)


def test_versions_are_ordered_by_number_and_other_names_ignored(tmp_path):
    for name in ("9", "10", "latest", ".3.partial", "²"):
        (tmp_path / name).mkdir()
    (tmp_path / "11").write_text("a file")
    assert list(version_folders(tmp_path).items()) == [(9, tmp_path / "9"), (10, tmp_path / "10")]
