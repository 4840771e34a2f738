"""The gRPC services. A method that is not defined here answers UNIMPLEMENTED."""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

import contextlib
import functools
import logging
import threading
from typing import Any

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.server import tensors
from serving.server.batching import Call, Task
from serving.server.errors import RequestError, cancelled, invalid
from serving.server.lifecycle import ModelManager
from serving.server.monitoring import Monitor, RequestLog

SIGNATURE_DEF = "signature_def"
logger = logging.getLogger(__name__)


def _answers(method):
    """Makes a gRPC handler from `method(self, request, call, log)`.

    An error becomes a status. The traceback of a bug goes to the server's log only.
    """

    @functools.wraps(method)
    def answer(self, request, context):
        log = RequestLog(method.__name__, context.peer(), request.ByteSize())
        call = Call()
        if not context.add_callback(call.abandon):
            call.abandon()
        with self.monitor.request(log):
            try:
                return method(self, request, call, log)
            except RequestError as error:
                refusal = error
            except Exception:
                logger.exception("%s failed", method.__name__)
                refusal = RequestError(
                    grpc.StatusCode.INTERNAL, "internal error; the server's log has more"
                )
            if call.abandoned and context.time_remaining() == 0:
                refusal = RequestError(
                    grpc.StatusCode.DEADLINE_EXCEEDED, "the request's deadline has passed"
                )
            log.status, log.error = refusal.code.name, str(refusal)
        context.abort(refusal.code, str(refusal))

    return answer


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify and GetModelMetadata.

    Args:
        manager: The models.
        monitor: Counts and logs the requests.
        max_requests: Most Predict and Classify requests in flight; more are refused.

    Attributes:
        in_flight: The number of Predict and Classify requests that are being answered.
    """

    def __init__(self, manager: ModelManager, monitor: Monitor, max_requests: int):
        self.monitor = monitor
        self._manager = manager
        self._max_requests = max_requests
        self.in_flight = 0
        self._lock = threading.Lock()

    @_answers
    def Predict(self, request: Any, call: Call, log: RequestLog) -> Any:
        return self._run("predict", request, call, log)

    @_answers
    def Classify(self, request: Any, call: Call, log: RequestLog) -> Any:
        return self._run("classify", request, call, log)

    @_answers
    def GetModelMetadata(self, request: Any, call: Call, log: RequestLog) -> Any:
        _check_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise invalid(f"Metadata field {field} is not supported")
        with self._manager.lease(request.model_spec) as servable:
            log.model, log.version = servable.name, servable.version
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            response.metadata[SIGNATURE_DEF].Pack(
                get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)
            )
            return response

    def _run(self, method: str, request, call: Call, log: RequestLog):
        """Answers a request by the servable's `method`."""
        _check_spec(request)
        with self._place(), self._manager.lease(request.model_spec) as servable:
            log.model, log.version = servable.name, servable.version
            signature_name = tensors.signature_name(request)
            if signature_name in servable.signatures:
                log.signature = signature_name
            response, tasks = getattr(servable, method)(request, call)
        if call.abandoned:
            raise cancelled()
        _log_tasks(log, tasks)
        return response

    @contextlib.contextmanager
    def _place(self):
        """Takes one of the places for requests in flight."""
        with self._lock:
            if self.in_flight == self._max_requests:
                raise RequestError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{self._max_requests} requests are being answered already",
                )
            self.in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus.

    HandleReloadConfigRequest is UNIMPLEMENTED: it would let anyone who reaches the port make the
    server read any folder. The configuration file is read again when it changes.
    """

    def __init__(self, manager: ModelManager, monitor: Monitor):
        self.monitor = monitor
        self._manager = manager

    @_answers
    def GetModelStatus(self, request: Any, call: Call, log: RequestLog) -> Any:
        _check_spec(request)
        statuses = self._manager.statuses(request.model_spec)
        log.model = request.model_spec.name
        return get_model_status_pb2.GetModelStatusResponse(model_version_status=statuses)


def _check_spec(request) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")


def _log_tasks(log: RequestLog, tasks: list[Task]) -> None:
    log.examples = sum(task.size for task in tasks)
    if tasks:
        log.batch_size = max(task.batch_size for task in tasks)
        log.queue_seconds = max(task.started - task.arrived for task in tasks)
