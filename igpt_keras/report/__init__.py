"""The report of a set of runs: the paper's figures and tables with what was measured.

| module | what it does |
| --- | --- |
| `runs` | finds runs and reads their results |
| `collect`, `curves` | select the series of each figure |
| `plots` | draws the figures with matplotlib |
| `published` | holds the rows of the paper's tables |
| `figures`, `tables` | exhibits with their captions |
| `sections` | the sections of the page |
| `page`, `templates/` | renders the page as HTML |
"""

import os
import pathlib
from collections.abc import Sequence

from igpt_keras.atomic import atomic_path
from igpt_keras.extras import require
from igpt_keras.report.runs import find_runs, find_unfinished, read_findings

HTML_FILE = "report.html"
TITLE = "Image GPT: results"


def write_report(
    paths: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    title: str = TITLE,
    overwrite: bool = False,
) -> list[pathlib.Path]:
    """Writes `output`/report.html (one self-contained page) and its figures as PNG files.

    Args:
        paths: Run folders, or folders that hold run folders one or two levels below.
        output: Folder to write.
        title: Title of the page.
        overwrite: Whether an earlier report in `output` is replaced.

    Returns:
        The files written, sorted by name.

    Raises:
        InputError: matplotlib or jinja2 is not installed, or a result or picture is damaged.
        FileNotFoundError: There is no run at one of `paths`.
        FileExistsError: `output` exists and must not be replaced.

    Example:
    ```python
    from igpt_keras.report import write_report

    write_report(["runs"], "report")
    ```
    """
    for module in ("matplotlib", "jinja2"):
        require(module, "report")
    from igpt_keras.report.page import render
    from igpt_keras.report.sections import report_page

    output = pathlib.Path(output)
    with atomic_path(output, overwrite, marker=HTML_FILE) as partial:
        folders = [pathlib.Path(path) for path in paths]
        findings = read_findings(find_runs(folders), find_unfinished(folders))
        page = report_page(findings, title)
        files = {picture.file: picture.png for picture in page.pictures()}
        # The name of a folder need not be valid Unicode.
        files[HTML_FILE] = render(page, HTML_FILE).encode("utf-8", "replace")
        partial.mkdir()
        for name, content in files.items():
            (partial / name).write_bytes(content)
    return [output / name for name in sorted(files)]
