"""A server for exported models that answers as TensorFlow Serving does.

It speaks TensorFlow Serving's gRPC API (`tensorflow.serving.PredictionService`): Predict
and GetModelMetadata. Status codes and messages are those of TensorFlow Serving, so a
client need not know which of the two it talks to.
"""

import contextlib
import functools
import logging
import os
import pathlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from igpt_keras.errors import InputError
from serving.transport import CHANNEL_OPTIONS
from serving.versions import version_folders

MAX_WORKERS = 8
SERVING_DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
SIGNATURE_DEF = "signature_def"
GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}

logger = logging.getLogger(__name__)


class Server:
    """Serves the newest version in a directory that `serving.export.export` wrote.

    >>> with Server("served") as server:
    ...     print(server.address)
    ...     server.wait()

    Args:
        directory: holds one folder per version, named by its number.
        model_name: the name that requests ask for.
        host: the interface to listen on.
        port: the port; 0 for a free one.

    Attributes:
        address: "host:port" as bound; None before `start`.
        version: the version served.

    Raises:
        FileNotFoundError: no such directory.
        InputError: no version in it, one that cannot be loaded, or an impossible port.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        model_name: str = "igpt",
        host: str = "127.0.0.1",
        port: int = 0,
    ):
        # The system would take a larger number modulo 65,536.
        if not 0 <= port <= 65_535:
            raise InputError(f"port must lie in 0…65535 (0 for a free one), got {port}")
        self._servable = Servable(_newest_version(directory))
        self.version = self._servable.version
        self._server = grpc.server(
            futures.ThreadPoolExecutor(MAX_WORKERS),
            # Without sharing, a port that another server has is an error.
            options=[*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(model_name, self._servable), self._server
        )
        self._host, self._port = host, port
        self.address: str | None = None

    def start(self) -> None:
        """Listens, and answers requests in threads of its own.

        Raises:
            OSError: the port is in use, or cannot be listened on.
        """
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            _check_free(self._host, self._port)
            bound_port = self._server.add_insecure_port(f"{host}:{self._port}")
        except (OSError, RuntimeError) as error:
            raise OSError(f"cannot listen on {host}:{self._port}: {error}") from None
        self._server.start()
        self.address = f"{host}:{bound_port}"

    def stop(self, grace: float = 5.0) -> None:
        """Refuses new requests, and returns when those under way are done.

        Args:
            grace: seconds after which requests still under way are cancelled.
        """
        self._server.stop(grace).wait()
        self._servable.close()

    def wait(self) -> None:
        """Returns when the server has been stopped."""
        self._server.wait_for_termination()

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *exception) -> None:
        self.stop()


class RequestError(Exception):
    """A request that is answered with a status other than OK."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


class Servable:
    """One version of a SavedModel, in a TensorFlow 1 session as TensorFlow Serving has it.

    Attributes:
        version: its number.
        signatures: `SignatureDef`s by name.

    Raises:
        InputError: a folder that holds no SavedModel, or a damaged one.
    """

    def __init__(self, folder: pathlib.Path):
        self.version = int(folder.name)
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        try:
            with self._session.graph.as_default(), _without_deprecation_notices():
                meta_graph = tf.compat.v1.saved_model.load(
                    self._session, [tf.saved_model.SERVING], str(folder)
                )
        except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
            self.close()
            raise InputError(f"{folder} is not a SavedModel that can be loaded: {error}") from error
        self.signatures = dict(meta_graph.signature_def)

    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, tensor_pb2.TensorProto],
        output_filter: Sequence[str] = (),
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            signature_name: which.
            inputs: every input of the signature, by name.
            output_filter: the outputs wanted; all if empty.

        Raises:
            RequestError: arguments that do not fit the signature, or that the graph refuses.
        """
        if signature_name not in self.signatures:
            raise RequestError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'Serving signature key "{signature_name}" not found.',
            )
        signature = self.signatures[signature_name]
        feeds = _feeds(signature, inputs)
        fetches = _fetches(signature, output_filter)
        try:
            return self._session.run(fetches, feeds)
        except tf.errors.OpError as error:
            raise RequestError(GRPC_CODES[error.error_code], _reason(error)) from None

    def close(self) -> None:
        self._session.close()


def _answer(method):
    """Turns what a handler raises into a status; a bug's traceback stays in the log."""

    @functools.wraps(method)
    def answer(self, request, context):
        try:
            return method(self, request)
        except RequestError as error:
            context.abort(error.code, str(error))
        except Exception:
            logger.exception("%s failed", method.__name__)
            context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has more")

    return answer


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """The handlers of the gRPC service; those not defined here answer UNIMPLEMENTED."""

    def __init__(self, model_name: str, servable: Servable):
        self.model_name = model_name
        self.servable = servable

    @_answer
    def Predict(self, request):
        servable = self._find(request)
        signature_name = request.model_spec.signature_name or SERVING_DEFAULT
        outputs = servable.predict(signature_name, request.inputs, request.output_filter)
        response = predict_pb2.PredictResponse()
        self._fill(response.model_spec, servable, signature_name)
        for name, values in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
        return response

    @_answer
    def GetModelMetadata(self, request):
        servable = self._find(request)
        if not request.metadata_field:
            raise RequestError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "GetModelMetadataRequest must specify at least one metadata_field",
            )
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise RequestError(
                    grpc.StatusCode.INVALID_ARGUMENT, f"Metadata field {field} is not supported"
                )
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        self._fill(response.model_spec, servable)
        response.metadata[SIGNATURE_DEF].Pack(signatures)
        return response

    def _find(self, request) -> Servable:
        """The servable that a request's `model_spec` names."""
        if not request.HasField("model_spec"):
            raise RequestError(grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")
        spec = request.model_spec
        if not spec.name:
            raise RequestError(grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            raise RequestError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Unrecognized servable version label: {spec.version_label}",
            )
        wanted = spec.version.value if choice == "version" else self.servable.version
        if spec.name != self.model_name or wanted != self.servable.version:
            asked = f"Specific({spec.name}, {wanted})" if choice else f"Latest({spec.name})"
            raise RequestError(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}"
            )
        return self.servable

    def _fill(self, spec, servable: Servable, signature_name: str = "") -> None:
        spec.name = self.model_name
        spec.version.value = servable.version
        spec.signature_name = signature_name


def _feeds(signature, inputs) -> dict[str, np.ndarray]:
    """Arrays by tensor name, from `TensorProto`s by input name."""
    sent, required = set(inputs), set(signature.inputs)
    if sent != required:
        raise RequestError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"input size does not match signature: {len(sent)}!={len(required)} "
            f"len({_braced(sent)}) != len({_braced(required)}). "
            f"Sent extra: {_braced(sent - required)}. "
            f"Missing but required: {_braced(required - sent)}.",
        )
    return {info.name: _array(name, inputs[name], info) for name, info in signature.inputs.items()}


def _array(name: str, proto, info) -> np.ndarray:
    """The value of input `name`, checked against its dtype and shape in the signature."""
    try:
        array = tf.make_ndarray(proto)
    except (TypeError, ValueError, MemoryError):
        raise RequestError(
            grpc.StatusCode.INVALID_ARGUMENT, f"tensor parsing error: {name}"
        ) from None
    expected, got = tf.dtypes.as_dtype(info.dtype), tf.dtypes.as_dtype(proto.dtype)
    if expected != got:
        raise RequestError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"Expected input {name} to be {expected.name} but {got.name} is provided",
        )
    shape = tf.TensorShape(info.tensor_shape)
    if not shape.is_compatible_with(array.shape):
        raise RequestError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"Expected input {name} to have shape {shape} but got {list(array.shape)}",
        )
    return array


def _fetches(signature, output_filter: Sequence[str]) -> dict[str, str]:
    """Tensor names by output name, of the outputs wanted."""
    for index, name in enumerate(output_filter):
        if name not in signature.outputs:
            raise RequestError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {_braced(signature.outputs)}.",
            )
        if name in output_filter[:index]:
            raise RequestError(
                grpc.StatusCode.INVALID_ARGUMENT, f"duplicate output tensor alias: {name}"
            )
    return {name: signature.outputs[name].name for name in output_filter or signature.outputs}


def _braced(names) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _reason(error: tf.errors.OpError) -> str:
    """TensorFlow's message without the node it came from."""
    return error.message.removeprefix("Graph execution error:\n\n").split("\n\t [[")[0]


def _check_free(host: str, port: int) -> None:
    """Raises what the system says of a port that cannot be had; gRPC keeps that to its log."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.create_server(address[:2], family=family):
        pass


def _newest_version(directory: str | os.PathLike) -> pathlib.Path:
    versions = version_folders(directory)
    if not versions:
        raise InputError(
            f"directory {directory} holds no version: a folder named by a number, "
            "as export writes it"
        )
    return versions[max(versions)]


@contextlib.contextmanager
def _without_deprecation_notices() -> Iterator[None]:
    """Nothing a user could act on: TensorFlow advises against TensorFlow 1 sessions."""
    tensorflow_logger = tf.get_logger()
    level = tensorflow_logger.level
    tensorflow_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        tensorflow_logger.setLevel(level)
