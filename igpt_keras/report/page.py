"""A report as HTML and as Markdown.

Both are written from one `Page`. HTML is built as a tree (`xml.etree`), so that every text
is escaped and every tag closed; Markdown escapes what would be markup.
"""

import base64
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from typing import TypeVar
from xml.etree import ElementTree

from igpt_keras.report.runs import Run

T = TypeVar("T")
ABSENT = "–"
NUMBER = re.compile(r"[\d.]+( ± [\d.]+)?[KM]?")
MARKUP = re.compile(r"([\\`*_\[\]<>|&~#$])")
NUMBERS_SUMMARY = "The numbers"

STYLE = """
:root { color-scheme: light dark; --line: #bbb; --quiet: #555; --paper: #f2f2ee; }
@media (prefers-color-scheme: dark) {
  :root { --line: #555; --quiet: #aaa; --paper: #2b2b28; }
}
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 64rem; padding: 1rem; }
h1 { line-height: 1.2; }
h2 { border-bottom: 1px solid var(--line); margin-top: 3rem; }
h1, h2, h3, figcaption, summary { overflow-wrap: anywhere; }
figure { margin: 1rem 0 2rem; }
figcaption { color: var(--quiet); margin: .5rem 0; max-width: 48rem; }
img { background: #fff; display: block; height: auto; max-width: 100%; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left;
  vertical-align: top; }
th { border-bottom-width: 2px; }
th.number, td.number { font-variant-numeric: tabular-nums; text-align: right; }
td.number { white-space: nowrap; }
tr.paper { background: var(--paper); font-style: italic; }
summary { cursor: pointer; }
details { margin: .5rem 0; }
pre { background: var(--paper); overflow-wrap: anywhere; padding: .5rem; white-space: pre-wrap; }
"""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG file and what it shows, in words."""

    file: str
    png: bytes
    alt: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells as text. Rows whose first cell is "paper" are set apart from ours."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """A picture or a table with its caption, and the runs it was made from.

    `numbers` are those that a picture draws.
    """

    heading: str
    content: Picture | Table
    caption: str
    runs: tuple[Run, ...]
    numbers: Table | None = None


@dataclasses.dataclass(frozen=True)
class Missing:
    """What the runs do not show, and the command that would change that."""

    text: str
    command: str


@dataclasses.dataclass(frozen=True)
class Section:
    title: str
    parts: tuple[Exhibit | Missing, ...]


@dataclasses.dataclass(frozen=True)
class Page:
    title: str
    introduction: str
    sections: tuple[Section, ...]

    def pictures(self) -> Iterator[Picture]:
        for section in self.sections:
            for part in section.parts:
                if isinstance(part, Exhibit) and isinstance(part.content, Picture):
                    yield part.content


def known(value: T | None, text: Callable[[T], str]) -> str:
    """A cell of a value that may be missing."""
    return ABSENT if value is None else text(value)


def percent(fraction: float | None) -> str:
    return known(fraction, lambda value: f"{100 * value:.1f}")


def nll(loss: float | None) -> str:
    return known(loss, lambda value: f"{value:.4f}")


def square(size: int) -> str:
    return f"{size}×{size}"


def to_html(page: Page) -> str:
    """One page that refers to nothing outside itself."""
    sections = [element for section in page.sections for element in _section(section)]
    head = _element(
        "head",
        _element("meta", charset="utf-8"),
        _element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _element("title", page.title),
        _element("style", STYLE),
    )
    main = _element("main", _element("h1", page.title), _element("p", page.introduction), *sections)
    root = _element("html", head, _element("body", main), lang="en")
    return "<!DOCTYPE html>\n" + ElementTree.tostring(root, encoding="unicode", method="html")


def _element(
    tag: str, *children: str | ElementTree.Element, **attributes: str
) -> ElementTree.Element:
    element = ElementTree.Element(tag, attributes)
    for child in children:
        if not isinstance(child, str):
            element.append(child)
        elif len(element):
            element[-1].tail = child
        else:
            element.text = child
    return element


def _section(section: Section) -> list[ElementTree.Element]:
    elements = [_element("h2", section.title)]
    for part in section.parts:
        if isinstance(part, Missing):
            elements.append(_element("p", f"{part.text} ", _element("code", part.command), "."))
        else:
            elements += [_element("h3", part.heading), _exhibit(part)]
    return elements


def _exhibit(exhibit: Exhibit) -> ElementTree.Element:
    content = exhibit.content
    caption = _element("figcaption", exhibit.caption)
    if isinstance(content, Table):
        figure = _element("figure", caption, _table(content))
    else:
        source = "data:image/png;base64," + base64.b64encode(content.png).decode("ascii")
        figure = _element("figure", _element("img", src=source, alt=content.alt), caption)
    if exhibit.numbers is not None:
        summary = _element("summary", NUMBERS_SUMMARY)
        figure.append(_element("details", summary, _table(exhibit.numbers)))
    figure.append(_element("details", _element("summary", _runs_summary(exhibit)), *_runs(exhibit)))
    return figure


def _table(table: Table) -> ElementTree.Element:
    styles = [_column_style(cells) for cells in zip(*table.rows, strict=True)]

    def row(tag, cells, **attributes):
        columns = zip(cells, styles, strict=True)
        return _element(
            "tr", *(_element(tag, cell, **style) for cell, style in columns), **attributes
        )

    head = row("th", table.header)
    rows = [
        row("td", cells, **({"class": "paper"} if cells[0] == "paper" else {}))
        for cells in table.rows
    ]
    body = _element("table", _element("thead", head), _element("tbody", *rows))
    return _element("div", body, **{"class": "wide"})


def _column_style(cells: tuple[str, ...]) -> dict[str, str]:
    known = [cell for cell in cells if cell != ABSENT]
    numeric = known and all(NUMBER.fullmatch(cell) for cell in known)
    return {"class": "number"} if numeric else {}


def _runs(exhibit: Exhibit) -> Iterator[ElementTree.Element]:
    for run in exhibit.runs:
        yield _element("p", _element("code", str(run.folder)))
        yield _element("pre", _reproduction(run))


def _runs_summary(exhibit: Exhibit) -> str:
    count = len(exhibit.runs)
    return f"Commands and settings of the {count} runs" if count > 1 else "Command and settings"


def _reproduction(run: Run) -> str:
    settings = json.dumps(run.result.settings, ensure_ascii=False)
    return f"{run.result.command}\n\nsettings: {settings}"


def to_markdown(page: Page) -> str:
    """The same page; its pictures are files beside it."""
    lines = [f"# {_escape(page.title)}", "", _escape(page.introduction), ""]
    for section in page.sections:
        lines += [f"## {_escape(section.title)}", ""]
        for part in section.parts:
            if isinstance(part, Missing):
                lines += [f"{_escape(part.text)} `{part.command}`.", ""]
            else:
                lines += _markdown_exhibit(part)
    return "\n".join(lines)


def _markdown_exhibit(exhibit: Exhibit) -> list[str]:
    content, caption = exhibit.content, _escape(exhibit.caption)
    lines = [f"### {_escape(exhibit.heading)}", ""]
    if isinstance(content, Table):
        lines += [caption, "", *_markdown_table(content), ""]
    else:
        lines += [f"![{_escape(content.alt)}]({content.file})", "", caption, ""]
    if exhibit.numbers is not None:
        lines += _folded(NUMBERS_SUMMARY, _markdown_table(exhibit.numbers))
    commands = []
    for run in exhibit.runs:
        text = _reproduction(run)
        longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
        fence = "`" * max(3, longest + 1)
        commands += [f"Run folder: {_escape(str(run.folder))}", "", fence, text, fence, ""]
    return lines + _folded(_runs_summary(exhibit), commands)


def _folded(summary: str, lines: list[str]) -> list[str]:
    return ["<details>", f"<summary>{summary}</summary>", "", *lines, "", "</details>", ""]


def _markdown_table(table: Table) -> list[str]:
    rows = [table.header, tuple("---" for _ in table.header), *table.rows]
    head, rule, *body = ("| " + " | ".join(cells) + " |" for cells in _escaped(rows))
    return [head, rule, *body]


def _escaped(rows: list[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    for cells in rows:
        yield tuple(_escape(cell) for cell in cells)


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return MARKUP.sub(r"\\\1", " ".join(text.split()))
