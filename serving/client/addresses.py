"""Addresses of servers."""

import re

from igpt_keras.errors import InputError

_HOST = r"(\[[^\s/\]@]+\]|[^\s/:\[\]@?#]+)"
_HOST_AND_PORT = re.compile(rf"{_HOST}:([0-9]+)")
_REST = re.compile(rf"https?://{_HOST}(?::([0-9]+))?/?")
# Of gRPC's other ways to name a server, those that its documentation of naming has.
_GRPC_SCHEMES = ("dns:", "unix:", "unix-abstract:", "vsock:", "ipv4:", "ipv6:")


def is_rest(address: str) -> bool:
    """Returns whether an address is that of a REST API.

    Raises:
        InputError: The address is none of gRPC either, which would only try it again and again.
    """
    if address.startswith(_GRPC_SCHEMES):
        return False
    rest = address.startswith(("http://", "https://"))
    parts = (_REST if rest else _HOST_AND_PORT).fullmatch(address)
    if parts is None or (parts[2] is not None and not 1 <= int(parts[2]) <= 65535):
        raise InputError(
            'address must be "host:port", such as localhost:8500 or [::1]:8500, for gRPC, or '
            f'"http://host:port" or "https://host:port" without a path for REST, got {address!r}'
        )
    return rest
