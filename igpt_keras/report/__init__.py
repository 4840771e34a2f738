"""The report of a set of runs: the paper's figures and tables from what was measured.

`runs` finds and reads the runs, `collect` picks the series of each figure, `plots` draws
them, `paper` holds the paper's rows; `figures` and `tables` add the captions, `sections`
puts all on one page, and `page` writes it as HTML and Markdown.
"""

import importlib.util
import os
import pathlib
from collections.abc import Sequence

from igpt_keras.atomic import atomic_path
from igpt_keras.errors import InputError
from igpt_keras.report.runs import find_runs, read_findings

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"
TITLE = "Image GPT: what was measured"


def write_report(
    paths: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    title: str = TITLE,
    overwrite: bool = False,
) -> list[str]:
    """Writes `output`/report.html (one self-contained page), report.md and its PNG files.

    Args:
        paths: folders of runs, or folders that hold such folders one or two levels below.
        output: the folder to write.
        title: of the page.
        overwrite: whether an earlier report at `output` is replaced.

    Returns: the names of the files in `output`.

    Raises:
        InputError: matplotlib is missing, or a run or a picture is damaged.
        FileNotFoundError: no run at one of `paths`.
        FileExistsError: `output` exists and must not be replaced.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("igpt report needs matplotlib: pip install 'igpt-keras[report]'")
    from igpt_keras.report.page import to_html, to_markdown
    from igpt_keras.report.sections import report_page

    with atomic_path(output, overwrite, marker=HTML_FILE) as partial:
        page = report_page(read_findings(find_runs(map(pathlib.Path, paths))), title)
        files = {picture.file: picture.png for picture in page.pictures()}
        # A folder's name need not be valid Unicode.
        files[HTML_FILE] = to_html(page).encode("utf-8", "replace")
        files[MARKDOWN_FILE] = to_markdown(page).encode("utf-8", "replace")
        partial.mkdir()
        for name, content in files.items():
            (partial / name).write_bytes(content)
    return sorted(files)
