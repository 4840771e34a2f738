import sys

import pytest

from igpt_keras import cli
from tests.report import report_runs as runs

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


def igpt(monkeypatch, *arguments):
    """The status with which `igpt` exits."""
    monkeypatch.setattr("sys.argv", ["igpt", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    return exit_info.value.code


@pytest.fixture
def folder(tmp_path):
    runs.pretraining(tmp_path / "runs" / "ar")
    runs.probe(tmp_path / "runs" / "probe")
    return tmp_path / "runs"


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_report_writes_a_page_and_its_pictures(folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "new" / "out"
    assert igpt(monkeypatch, "report", folder, "--output", output, "--title", "Mine") == 0
    message = f"wrote {output}/report.html, and its figures as 1 PNG files\n"
    assert capsys.readouterr().out == message
    written = contents(output)
    assert set(written) == {"report.html", "accuracy-by-layer-1.png"}
    assert b"<title>Mine</title>" in written["report.html"]
    # The same runs, named one by one, make the same report.
    again = tmp_path / "again"
    arguments = (folder / "ar", folder / "probe", "--output", again, "--title", "Mine")
    assert igpt(monkeypatch, "report", *arguments) == 0
    assert contents(again) == written


def test_an_earlier_report_is_replaced_only_when_asked(folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    assert igpt(monkeypatch, "report", folder / "ar", "--output", output) == 0
    before = contents(output)
    assert igpt(monkeypatch, "report", folder, "--output", output) == 2
    assert "exists already" in capsys.readouterr().err
    assert contents(output) == before
    assert igpt(monkeypatch, "report", folder, "--output", output, "--overwrite") == 0
    assert "accuracy-by-layer-1.png" in contents(output)
    assert igpt(monkeypatch, "report", folder, "--output", folder, "--overwrite") == 2
    assert "folder of other things" in capsys.readouterr().err


def test_a_mistake_is_one_line_and_status_2(folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    assert igpt(monkeypatch, "report", tmp_path / "none", "--output", output) == 2
    error = capsys.readouterr().err
    assert error.startswith("igpt: error: ") and error.count("\n") == 1
    assert f"{tmp_path / 'none'} holds no run" in error
    (folder / "probe" / "result.json").write_text("{}")
    assert igpt(monkeypatch, "report", folder, "--output", output) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"igpt: error: {folder / 'probe' / 'result.json'}")
    assert error.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize("module", ["matplotlib", "jinja2"])
def test_what_is_not_installed_is_named(folder, tmp_path, monkeypatch, capsys, module):
    monkeypatch.setitem(sys.modules, module, None)
    assert igpt(monkeypatch, "report", folder, "--output", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        f"igpt: error: {module} is not installed: pip install 'igpt-keras[report]'\n"
    )
    assert not (tmp_path / "out").exists()
