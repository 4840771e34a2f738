import os
import subprocess
import sys

import pytest

from igpt_keras.atomic import atomic_path, remove_leftovers


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_path(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("existing", [False, True])
def test_a_failing_block_leaves_everything_as_it_was(tmp_path, existing):
    path = tmp_path / "folder"
    if existing:
        path.mkdir()
        (path / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path, True, marker="old") as partial:
        partial.mkdir()
        (partial / "new").write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.rglob("*")] == (["folder", "old"] if existing else [])


def test_an_existing_path_is_refused_before_the_block_runs(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileExistsError, match="file.txt exists already"):
        with atomic_path(path):
            pytest.fail("the block ran")
    assert path.read_text() == "old"


def test_overwriting_replaces_a_folder_whole(tmp_path):
    path = tmp_path / "folder"
    for name in ("first", "second"):
        with atomic_path(path, overwrite=True, marker="marker") as partial:
            partial.mkdir()
            (partial / name).write_text(name)
            (partial / "marker").touch()
    assert {p.name for p in path.iterdir()} == {"second", "marker"}
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with atomic_path("~/file.txt") as partial:
        partial.write_text("whole")
    assert (tmp_path / "file.txt").read_text() == "whole"
    with pytest.raises(FileExistsError, match="file.txt exists already; choose .* overwrite it$"):
        with atomic_path("~/file.txt"):
            pytest.fail("the block ran")


def test_what_appears_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "file.txt"
    with pytest.raises(FileExistsError), atomic_path(path) as partial:
        partial.write_text("ours")
        path.write_text("theirs")
    assert path.read_text() == "theirs"


@pytest.mark.parametrize("marker", [None, "marker"])
def test_a_folder_of_other_things_is_never_replaced(tmp_path, marker):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="folder of other things"):
        with atomic_path(tmp_path, overwrite=True, marker=marker):
            pytest.fail("the block ran")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_empty_folder_may_be_replaced(tmp_path):
    path = tmp_path / "empty"
    path.mkdir()
    with atomic_path(path, overwrite=True) as partial:
        partial.write_text("file")
    assert path.read_text() == "file"


def test_what_a_killed_process_left_is_removed(tmp_path):
    script = (
        "import os, sys\n"
        "from igpt_keras.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as partial:\n"
        "    partial.mkdir()\n"
        "    (partial / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    for name in (".hidden", "kept"):
        (tmp_path / name).mkdir()
    subprocess.run([sys.executable, "-c", script, tmp_path / "folder"], check=False)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 3 and left[0].startswith(".folder.")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "kept"]


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, os.fsdecode(b"\xe4" * 255)])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path, name):
    with atomic_path(tmp_path / name) as partial:
        partial.write_text("complete")
    assert (tmp_path / name).read_text() == "complete"
    assert [path.name for path in tmp_path.iterdir()] == [name]
