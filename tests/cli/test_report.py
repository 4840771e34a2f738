import sys

import pytest

from tests.report import report_runs as runs

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


@pytest.fixture
def folder(tmp_path):
    runs.pretraining(tmp_path / "runs" / "ar")
    runs.probe(tmp_path / "runs" / "probe")
    return tmp_path / "runs"


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_report_writes_a_page_and_its_pictures(igpt, folder, tmp_path):
    output = tmp_path / "new" / "out"
    status, printed, errors = igpt("report", folder, "--output", output, "--title", "Mine")
    assert status == 0, errors
    message = f"Wrote {output}/report.html and 1 figure\n"
    assert printed == message
    written = contents(output)
    assert set(written) == {"report.html", "accuracy-by-layer-1.png"}
    assert b"<title>Mine</title>" in written["report.html"]
    # The same runs, named one by one, make the same report.
    again = tmp_path / "again"
    arguments = (folder / "ar", folder / "probe", "--output", again, "--title", "Mine")
    status, printed, errors = igpt("report", *arguments)
    assert status == 0, errors
    assert contents(again) == written


def test_an_earlier_report_is_replaced_only_when_asked(igpt, folder, tmp_path):
    output = tmp_path / "out"
    status, printed, errors = igpt("report", folder / "ar", "--output", output)
    assert status == 0, errors
    before = contents(output)
    status, printed, errors = igpt("report", folder, "--output", output)
    assert status == 2, errors
    assert "exists already" in errors
    assert contents(output) == before
    status, printed, errors = igpt("report", folder, "--output", output, "--overwrite")
    assert status == 0, errors
    assert "accuracy-by-layer-1.png" in contents(output)
    status, printed, errors = igpt("report", folder, "--output", folder, "--overwrite")
    assert status == 2, errors
    assert "folder of other things" in errors


def test_a_mistake_is_one_line_and_status_2(igpt, folder, tmp_path):
    output = tmp_path / "out"
    status, printed, errors = igpt("report", tmp_path / "none", "--output", output)
    assert status == 2, errors
    assert errors.startswith("igpt: error: ") and errors.count("\n") == 1
    assert f"{tmp_path / 'none'} holds no run" in errors
    (folder / "probe" / "result.json").write_text("{}")
    status, printed, errors = igpt("report", folder, "--output", output)
    assert status == 2, errors
    assert errors.startswith(f"igpt: error: {folder / 'probe' / 'result.json'}")
    assert errors.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize("module", ["matplotlib", "jinja2"])
def test_what_is_not_installed_is_named(igpt, folder, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    status, _, errors = igpt("report", folder, "--output", tmp_path / "out")
    assert (status, errors) == (
        2,
        f"igpt: error: {module} is not installed: python -m pip install -e '.[report]' in the "
        "clone of igpt-keras installs it\n",
    )
    assert not (tmp_path / "out").exists()
