"""The page's files, as a browser asks for them."""

import re
from collections.abc import Mapping

from serving.server.rest.exchanges import Exchange
from serving.server.rest.routes import Route

# Nothing inline and nothing from elsewhere; images that users choose are blobs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
# A browser asks again, so that files of two releases never meet.
CACHING = {"Cache-Control": "no-cache"}


def page_routes(files: Mapping[str, tuple[str, bytes]]) -> list[Route]:
    """Returns routes to files in memory.

    Args:
        files: A content type and a content for each path.
    """

    async def answer(exchange: Exchange) -> None:
        content_type, content = files[exchange.match["path"]]
        await exchange.reply(content, content_type=content_type, policy=POLICY, headers=CACHING)

    path = re.compile(rf"(?P<path>{'|'.join(map(re.escape, files))})(?:\?.*)?")
    # aiohttp leaves out the body of an answer to HEAD.
    return [Route(method, path, "Page", answer, logged=False) for method in ("GET", "HEAD")]
