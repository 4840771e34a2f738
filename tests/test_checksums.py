import subprocess

import pytest

from igpt_keras.checksums import CHECKSUM_FILE, find_damage, write_checksums


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 9000)
    (tmp_path / "sub" / "b ü.txt").write_text("text")
    (tmp_path / "empty").write_bytes(b"")
    write_checksums(tmp_path)
    return tmp_path


def test_sha256sum_agrees(folder):
    assert find_damage(folder, "a.bin", "sub/b ü.txt", "empty") is None
    checked = subprocess.run(["sha256sum", "--check", "--strict", CHECKSUM_FILE], cwd=folder)
    assert checked.returncode == 0


def test_files_that_came_later_do_not_matter(folder):
    (folder / "new").write_text("new")
    assert find_damage(folder) is None
    assert find_damage(folder, "new") == f"{CHECKSUM_FILE} is not as it was written"


@pytest.mark.parametrize("name", ["a.bin", "sub/b ü.txt", "empty", CHECKSUM_FILE])
def test_every_change_is_found(folder, name):
    content = (folder / name).read_bytes()
    changes = [content + b"\0", content[:-1] + b"x", content[: len(content) // 2], b"", None]
    for change in changes:
        if change == content:
            continue
        (folder / name).unlink()
        if change is not None:
            (folder / name).write_bytes(change)
        damage = find_damage(folder, "a.bin")
        assert damage is not None, change
        assert name in damage or name == CHECKSUM_FILE
        (folder / name).write_bytes(content)
    assert find_damage(folder) is None


def test_a_folder_in_place_of_a_file(folder):
    (folder / "empty").unlink()
    (folder / "empty").mkdir()
    assert "empty cannot be read" in find_damage(folder)
