"""The content of a report, and its rendering by the templates in this folder."""

import base64
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from igpt_keras.extras import require
from igpt_keras.report.runs import Run

T = TypeVar("T")
ABSENT = "–"
NUMBER = re.compile(r"-?[\d.]+( ± [\d.]+)?[KM]?")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG file and a description of what it shows."""

    file: str
    png: bytes
    alt: str

    @property
    def url(self) -> str:
        """The picture as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells as text. Rows whose first cell is "paper" are set apart."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def numeric(self) -> list[bool]:
        """Whether a column holds numbers."""
        columns = ([c for c in column if c != ABSENT] for column in zip(*self.rows, strict=True))
        return [bool(cells) and all(map(NUMBER.fullmatch, cells)) for cells in columns]


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """A picture or a table with its caption, and the runs it was made from.

    `numbers` holds the numbers that a picture shows.
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
    """A titled part of the page."""

    title: str
    parts: tuple[Exhibit | Missing, ...]


@dataclasses.dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    introduction: str
    sections: tuple[Section, ...]

    def pictures(self) -> Iterator[Picture]:
        """Yields the pictures of all sections."""
        for section in self.sections:
            for part in section.parts:
                if isinstance(part, Exhibit) and isinstance(part.content, Picture):
                    yield part.content


def known(value: T | None, text: Callable[[T], str]) -> str:
    """Formats a value that may be missing."""
    return ABSENT if value is None else text(value)


def percent(fraction: float | None) -> str:
    """Formats a fraction as a percentage with one decimal."""
    return known(fraction, lambda value: f"{100 * value:.1f}")


def nll(loss: float | None) -> str:
    """Formats a loss in nats with four decimals."""
    return known(loss, "{:.4f}".format)


def square(size: int) -> str:
    """Formats an image size."""
    return f"{size}×{size}"


def render(page: Page, template: str) -> str:
    """Renders `page` with `templates/TEMPLATE` as HTML that refers to nothing outside.

    Raises:
        InputError: jinja2 is not installed.
    """
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("igpt_keras.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(page=page)
