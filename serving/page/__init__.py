"""The page on which people complete images: static files, and no request to anywhere else.

`docs/page.md` describes it for users. The server sends the files of `static/` as they are; there
is no build step. `static/js/main.js` connects the modules, each of which has one duty.
"""

from serving.page.files import page_files

__all__ = ["page_files"]
