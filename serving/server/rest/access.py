"""Who may ask, and what a browser may do with an answer."""

import dataclasses
import ipaddress
import re
import urllib.parse
from collections.abc import Collection, Mapping

import grpc

from igpt_keras.errors import InputError
from serving.server.errors import RequestError

# The answers of the API are not documents.
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
ORIGIN = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/?#@\s]+")
SAFE_HEADERS = {
    "Server": "igpt",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
PREFLIGHT = {
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


@dataclasses.dataclass(frozen=True)
class Access:
    """Refuses requests that a web page of another site sends through a visitor's browser.

    A name that leads to this machine makes no difference to a page's origin (DNS rebinding), so a
    server on loopback answers only to names of loopback.

    Args:
        scheme: "http" or "https".
        loopback: Whether only this machine reaches the server.
        cors_origins: Origins such as "https://example.com", in lower case, whose pages may send
            requests; "*" for all.
    """

    scheme: str
    loopback: bool
    cors_origins: frozenset[str]

    def check(self, headers: Mapping[str, str]) -> None:
        """Checks the headers `Host` and `Origin` of a request.

        Raises:
            RequestError: PERMISSION_DENIED.
        """
        host, origin = headers.get("Host"), headers.get("Origin")
        if host is not None and self.loopback and not _is_loopback(host):
            raise _denied(f"this server is called localhost, not {host}")
        if origin is None or self._allows(origin):
            return
        if origin.lower() != f"{self.scheme}://{host}".lower():
            raise _denied(f"pages of {origin} may not use this server")

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Returns what an answer to a request with these headers tells a browser."""
        answer = dict(SAFE_HEADERS)
        if self.cors_origins:
            answer["Vary"] = "Origin"
        origin = headers.get("Origin")
        if origin is not None and self._allows(origin):
            answer["Access-Control-Allow-Origin"] = "*" if "*" in self.cors_origins else origin
        return answer

    def _allows(self, origin: str) -> bool:
        return "*" in self.cors_origins or origin.lower() in self.cors_origins


def read_origins(origins: Collection[str]) -> frozenset[str]:
    """Returns origins as `Access` takes them.

    Raises:
        InputError: One is neither "*" nor a scheme, a host and perhaps a port.
    """
    for origin in origins:
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise InputError(
                f'cors_origins must be "*" or such as "https://example.com", got {origin!r}'
            )
    return frozenset(origin.lower() for origin in origins)


def _is_loopback(host: str) -> bool:
    """Returns whether a header `Host` names loopback, at any port."""
    try:
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _denied(message: str) -> RequestError:
    return RequestError(grpc.StatusCode.PERMISSION_DENIED, message)
