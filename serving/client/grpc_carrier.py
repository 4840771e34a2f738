"""Requests over gRPC, as TensorFlow Serving takes them."""

import os
import pathlib
from typing import Any

import grpc
import numpy as np

from igpt_keras.errors import InputError
from serving.client import protocol
from serving.client.answers import VersionStatus
from serving.client.carriers import Exchange, ModelSpec
from serving.client.connection import TLS
from serving.client.errors import Failure
from serving.client.protocol import Method, messages

_Message = tuple[Method, Any]


class GrpcCarrier:
    """Carries requests about one model over gRPC; its messages are methods with their requests.

    Args:
        address: "host:port", or another name in gRPC's notation.
        model: The model.
        tls: An encrypted connection; None for one without encryption.
        max_message_bytes: The largest request and response.
    """

    def __init__(self, address: str, model: ModelSpec, tls: TLS | None, max_message_bytes: int):
        self._address = address
        self._model = model
        self._credentials = None if tls is None else _credentials(tls)
        self._options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_receive_message_length", max_message_bytes),
            # Reconnect to a restarted server within the pauses between attempts.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        if tls is not None and tls.server_name is not None:
            self._options.append(("grpc.ssl_target_name_override", tls.server_name))

    def predict(
        self, signature_name: str, inputs: dict[str, np.ndarray], outputs: list[str]
    ) -> Exchange[dict[str, np.ndarray]]:
        """Calls a signature."""
        request = messages.PredictRequest(
            model_spec=self._spec(signature_name),
            inputs=[
                messages.TensorEntry(key=name, value=protocol.tensor_proto(values))
                for name, values in inputs.items()
            ],
            output_filter=outputs,
        )
        response = yield protocol.PREDICT, request
        return {entry.key: protocol.array(entry.value) for entry in response.outputs}

    def status(self) -> Exchange[list[VersionStatus]]:
        """Asks for the versions of the model."""
        request = messages.GetModelStatusRequest(model_spec=self._spec())
        response = yield protocol.GET_MODEL_STATUS, request
        return [
            VersionStatus(
                version=status.version,
                state=protocol.STATES.get(status.state, "UNKNOWN"),
                error=status.status.error_message,
            )
            for status in response.model_version_status
        ]

    def signatures(self) -> Exchange[dict[str, list[str]]]:
        """Asks for the model's signatures."""
        request = messages.GetModelMetadataRequest(
            model_spec=self._spec(), metadata_field=["signature_def"]
        )
        response = yield protocol.GET_MODEL_METADATA, request
        (entry,) = response.metadata
        signatures = messages.SignatureDefMap.FromString(entry.value.value).signature_def
        return {
            entry.key: [each.key for each in entry.value.inputs]
            for entry in signatures
            if not entry.key.startswith("__")
        }

    def complete_rows(self, settings: dict[str, Any]) -> Any:
        """Raises `InputError`."""
        raise InputError(
            "rows as they come need the REST API of igpt serve, such as "
            f'"http://localhost:8501", got the gRPC address {self._address!r}'
        )

    def bytes_of_each(self, values: np.ndarray) -> np.ndarray:
        """Returns the size of each of B examples in a request: int [B]."""
        if values.dtype.kind == "O":
            return np.array([sum(map(len, row)) for row in values.reshape(len(values), -1)])
        return np.full(len(values), values[:1].nbytes)

    def connect(self) -> "_Connection":
        """Returns a connection for any number of threads."""
        return _Connection(self._channel(grpc.insecure_channel, grpc.secure_channel))

    def connect_asynchronously(self) -> "_AsyncConnection":
        """Returns a connection for the running event loop."""
        return _AsyncConnection(self._channel(grpc.aio.insecure_channel, grpc.aio.secure_channel))

    def _channel(self, insecure_channel, secure_channel):
        if self._credentials is None:
            return insecure_channel(self._address, self._options)
        return secure_channel(self._address, self._credentials, self._options)

    def _spec(self, signature_name: str = "") -> Any:
        spec = messages.ModelSpec(name=self._model.name, signature_name=signature_name)
        if self._model.version is not None:
            spec.version.value = self._model.version
        elif self._model.label is not None:
            spec.version_label = self._model.label
        return spec


class _Connection:
    def __init__(self, channel: grpc.Channel):
        self._channel = channel

    def send(self, message: _Message, timeout: float | None) -> Any:
        method, request = message
        try:
            return method.connect(self._channel)(request, timeout=timeout)
        except grpc.RpcError as error:
            raise _failure(error) from None

    def close(self) -> None:
        self._channel.close()


class _AsyncConnection:
    def __init__(self, channel: grpc.aio.Channel):
        self._channel = channel

    async def send(self, message: _Message, timeout: float | None) -> Any:
        method, request = message
        try:
            return await method.connect(self._channel)(request, timeout=timeout)
        except grpc.RpcError as error:
            raise _failure(error) from None

    async def close(self) -> None:
        await self._channel.close()


def _failure(error: Any) -> Failure:
    return Failure(error.code(), error.details() or "")


def _credentials(tls: TLS) -> grpc.ChannelCredentials:
    files = (tls.root_certificates, tls.client_key, tls.client_certificate)
    return grpc.ssl_channel_credentials(*map(_read, files))


def _read(path: str | os.PathLike | None) -> bytes | None:
    return None if path is None else pathlib.Path(path).read_bytes()
