"""Requests over TensorFlow Serving's REST API."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import grpc
import numpy as np

from igpt_keras.errors import InputError
from serving.client.answers import VersionStatus
from serving.client.carriers import Exchange, ModelSpec
from serving.client.connection import TLS
from serving.client.errors import Failure
from serving.client.http_connection import (
    EVENTS,
    JSON,
    AsyncHttpConnection,
    HttpConnection,
    HttpRequest,
    HttpServer,
)
from serving.client.rest_json import (
    Signature,
    array,
    check_batch_sizes,
    json_tensor,
    parsed,
    reading,
    signatures,
)

SERVING_DEFAULT = "serving_default"
# Characters of {"b64":""}, a boolean and the longest number, each with a comma.
_AROUND_STRING, _BOOLEAN, _FLOAT = 11, 6, 25


class RestCarrier:
    """Carries requests about one model over REST; its messages are HTTP requests.

    JSON does not tell dtypes: the carrier asks for the model's signatures unless it knows them.

    Args:
        address: "http://host:port" or "https://host:port".
        model: The model.
        tls: Settings of an encrypted connection; None for the system's authorities.
        max_message_bytes: The largest request and response.
    """

    def __init__(self, address: str, model: ModelSpec, tls: TLS | None, max_message_bytes: int):
        if tls is not None and not address.startswith("https:"):
            raise InputError(f'tls goes with an address "https://host:port", got {address!r}')
        self._server = HttpServer(address, tls, max_message_bytes)
        self._path = f"/v1/models/{quote(model.name, safe='')}"
        if model.version is not None:
            self._path += f"/versions/{model.version}"
        elif model.label is not None:
            self._path += f"/labels/{quote(model.label, safe='')}"
        self._signatures: dict[str, Signature] = {}

    def predict(
        self, signature_name: str, inputs: dict[str, np.ndarray], outputs: list[str]
    ) -> Exchange[dict[str, np.ndarray]]:
        """Calls a signature."""
        name = signature_name or SERVING_DEFAULT
        document = {
            "signature_name": name,
            "inputs": {name: json_tensor(values) for name, values in inputs.items()},
        }
        signature = yield from self._signature(
            name, lambda signature: not _misnamed(signature, inputs, outputs)
        )
        if _misnamed(signature, inputs, outputs):
            raise _invalid(_misnamed(signature, inputs, outputs))
        content = yield self._post(":predict", document)
        with reading(content):
            answer = parsed(content)["outputs"]
        signature = yield from self._signature(name, lambda signature: _is_of(answer, signature))
        with reading(content):
            if len(signature.outputs) == 1:
                answer = dict.fromkeys(signature.outputs, answer)
            arrays = {
                name: array(answer[name], signature.outputs[name])
                for name in outputs or signature.outputs
            }
            check_batch_sizes(arrays, len(next(iter(inputs.values()))))
        return arrays

    def status(self) -> Exchange[list[VersionStatus]]:
        """Asks for the versions of the model."""
        content = yield HttpRequest("GET", self._path)
        with reading(content):
            return [
                VersionStatus(
                    version=int(status["version"]),
                    state=status["state"],
                    error=status["status"]["error_message"],
                )
                for status in parsed(content)["model_version_status"]
            ]

    def signatures(self) -> Exchange[dict[str, list[str]]]:
        """Asks for the model's signatures."""
        content = yield HttpRequest("GET", f"{self._path}/metadata")
        with reading(content):
            self._signatures = signatures(parsed(content))
        return {
            name: list(signature.inputs)
            for name, signature in self._signatures.items()
            if not name.startswith("__")
        }

    def complete_rows(self, settings: dict[str, Any]) -> HttpRequest:
        """Returns the message whose response is a stream of rows."""
        return self._post(":stream", settings, EVENTS)

    def bytes_of_each(self, values: np.ndarray) -> np.ndarray:
        """Returns the size of each of B examples in a request, or a little more: int [B]."""
        rows = values.reshape(len(values), -1)
        if values.dtype.kind == "O":
            return np.array([sum(_base64_size(len(s)) for s in row) for row in rows])
        if values.dtype.kind in "SU":
            width = _base64_size(values.dtype.itemsize)
        elif values.dtype.kind in "iu":
            width = len(str(np.iinfo(values.dtype).min or np.iinfo(values.dtype).max)) + 1
        else:
            width = _BOOLEAN if values.dtype.kind == "b" else _FLOAT
        return np.full(len(values), rows.shape[1] * width)

    def connect(self) -> HttpConnection:
        """Returns a connection for any number of threads."""
        return self._server.connect()

    def connect_asynchronously(self) -> AsyncHttpConnection:
        """Returns a connection for the running event loop."""
        return self._server.connect_asynchronously()

    def _signature(self, name: str, fits: Callable[[Signature], bool]) -> Exchange[Signature]:
        """Returns a signature, asking for it unless one that fits is known."""
        signature = self._signatures.get(name)
        # A new version of the model may have other ones.
        if signature is None or not fits(signature):
            yield from self.signatures()
            signature = self._signatures.get(name)
        if signature is None:
            raise _invalid(f'Serving signature name: "{name}" not found in signature def')
        return signature

    def _post(self, method: str, document: Any, accept: str = JSON) -> HttpRequest:
        body = json.dumps(document, separators=(",", ":")).encode()
        return HttpRequest("POST", self._path + method, body, accept)


def _base64_size(num_bytes: int) -> int:
    return (num_bytes + 2) // 3 * 4 + _AROUND_STRING


def _misnamed(signature: Signature, inputs: dict[str, Any], outputs: list[str]) -> str:
    """Returns what gRPC's servers refuse and those of REST ignore, or ""."""
    if inputs.keys() != signature.inputs.keys():
        return f"inputs must be {sorted(signature.inputs)}, got {sorted(inputs)}"
    if not set(outputs) <= signature.outputs.keys():
        return f"outputs must be among {sorted(signature.outputs)}, got {outputs}"
    return ""


def _is_of(answer: Any, signature: Signature) -> bool:
    """Returns whether an answer has a signature's outputs; a single one comes without its name."""
    names = signature.outputs.keys()
    return answer.keys() == names if isinstance(answer, dict) else len(names) == 1


def _invalid(details: str) -> Failure:
    return Failure(grpc.StatusCode.INVALID_ARGUMENT, details)
