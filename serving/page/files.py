"""The files of the page, read once."""

import pathlib

STATIC = pathlib.Path(__file__).parent / "static"
# The page's own path; the other files lie below `PREFIX`.
INDEX, PREFIX = "index.html", "/page/"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".png": "image/png",
}


def page_files() -> dict[str, tuple[str, bytes]]:
    """Reads the files.

    Returns:
        For each path of a URL, a content type and a content. Nothing else is ever read from the
        disk for a browser.

    Example:
        ```python
        content_type, content = page_files()["/"]
        ```
    """
    files = {}
    for path in sorted(STATIC.rglob("*")):
        if path.suffix in CONTENT_TYPES:
            name = path.relative_to(STATIC).as_posix()
            url = "/" if name == INDEX else PREFIX + name
            files[url] = (CONTENT_TYPES[path.suffix], path.read_bytes())
    return files
