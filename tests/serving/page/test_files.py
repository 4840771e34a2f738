"""The page's files: all there, small, and none asks for anything elsewhere."""

import html.parser
import posixpath
import re

import pytest

from serving.page import page_files

MAX_LINES = 400


@pytest.fixture(scope="module")
def files():
    return page_files()


class References(html.parser.HTMLParser):
    """Collects what a page loads, and what a strict Content-Security-Policy would refuse."""

    def __init__(self):
        super().__init__()
        self.loaded, self.refused, self._in_script = [], [], False

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.refused += [name for name in values if name == "style" or name.startswith("on")]
        self.loaded += [values[name] for name in ("src", "href") if name in values]
        self._in_script = tag in ("script", "style")

    def handle_data(self, data):
        if self._in_script and data.strip():
            self.refused.append(data)
        self._in_script = False


def test_what_the_page_loads_is_served_and_nothing_is_inline(files):
    references = References()
    references.feed(files["/"][1].decode())
    assert not references.refused
    assert references.loaded
    assert {f"/{path}" for path in references.loaded} <= files.keys()


def test_modules_import_modules_that_are_served(files):
    modules = {path: content for path, (_, content) in files.items() if path.endswith(".js")}
    imported = {"/page/js/main.js"}
    for path, content in modules.items():
        for name in re.findall(r'from "(\.[^"]+)"', content.decode()):
            imported.add(posixpath.normpath(posixpath.join(posixpath.dirname(path), name)))
    assert imported == modules.keys()


def test_no_file_names_another_site(files):
    for path, (content_type, content) in files.items():
        if not content_type.startswith("image/"):
            assert not re.search(r"(?:https?:)?//\w+\.\w", content.decode()), path


def test_content_types_and_sizes(files):
    assert files["/"][0] == "text/html; charset=utf-8"
    assert {content_type.partition(";")[0] for content_type, _ in files.values()} == {
        *("text/html", "text/css", "text/javascript"),
        *("image/svg+xml", "image/jpeg", "image/png"),
    }
    samples = [content for path, (_, content) in files.items() if path.startswith("/page/samples/")]
    assert len(samples) == 3
    assert sum(map(len, samples)) < 60_000
    for path, (content_type, content) in files.items():
        if content_type.startswith("text/"):
            assert content.count(b"\n") < MAX_LINES, path
