"""Which model a path names."""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

import re
import urllib.parse

from tensorflow_serving.apis import model_pb2

from serving.server.errors import invalid
from serving.versions import MAX_VERSION

# TensorFlow Serving's expressions (http_rest_api_util.cc), which ignore case.
MODEL = r"/v1/models/(?P<model>[^/:]+)"
VERSION = r"(?:(?:/versions/(?P<version>\d+))|(?:/labels/(?P<label>[^/:]+)))?"


def expression(text: str) -> re.Pattern[str]:
    """Compiles the expression of a route."""
    return re.compile(text, re.IGNORECASE | re.ASCII)


def model_spec(match: re.Match[str]) -> model_pb2.ModelSpec:
    """Returns the model that a path with `MODEL` and `VERSION` names.

    Raises:
        RequestError: INVALID_ARGUMENT, the version is too large.
    """
    groups = match.groupdict()
    spec = model_pb2.ModelSpec(name=_unquoted(groups["model"] or ""))
    if groups["version"]:
        # Python refuses to read numbers of very many digits.
        if len(groups["version"]) > 4000 or int(groups["version"]) > MAX_VERSION:
            raise invalid(f"Failed to convert version: {groups['version']} to numeric.")
        spec.version.value = int(groups["version"])
    elif groups["label"]:
        spec.version_label = _unquoted(groups["label"])
    return spec


def _unquoted(text: str) -> str:
    return urllib.parse.unquote(text, errors="replace")
