"""What the methods of TensorFlow Serving's two services answer."""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

from typing import Any

from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
)

from serving.server import tensors
from serving.server.batching import Call, Task
from serving.server.calls import Conversation, Request, Unserved, Workers
from serving.server.errors import cancelled, invalid
from serving.server.lifecycle import ModelManager
from serving.server.monitoring import RequestLog
from serving.server.row_streams import Events, RowsRequest

SIGNATURE_DEF = "signature_def"
PREDICTION_SERVICE = prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"]
MODEL_SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]
SERVICES = (PREDICTION_SERVICE.full_name, MODEL_SERVICE.full_name)
# Threads for questions about models, which are answered while all requests sample.
QUESTION_THREADS = 4


class Services:
    """PredictionService and ModelService.

    Regress, MultiInference and HandleReloadConfigRequest are UNIMPLEMENTED. The last would let
    anyone who reaches the port make the server read any folder. The configuration file is read
    again when it changes.

    Args:
        manager: The models.
        max_requests: Most requests for results in flight; more are refused.
        max_message_bytes: The largest response.

    Attributes:
        workers: Threads for Predict, Classify and completions row by row.
        questions: Threads for questions about models.
    """

    def __init__(self, manager: ModelManager, max_requests: int, max_message_bytes: int):
        self._manager = manager
        self._max_message_bytes = max_message_bytes
        self.workers = Workers(max_requests, places=max_requests)
        self.questions = Workers(QUESTION_THREADS, places=max_requests)

    @property
    def in_flight(self) -> int:
        """The number of requests for results that are being answered."""
        return self.workers.in_flight

    def conversations(self) -> dict[str, Conversation]:
        """Returns the methods by path."""
        ours = {
            "Predict": (self.predict, predict_pb2.PredictRequest, self.workers),
            "Classify": (self.classify, classification_pb2.ClassificationRequest, self.workers),
            "GetModelMetadata": (
                self.metadata,
                get_model_metadata_pb2.GetModelMetadataRequest,
                self.questions,
            ),
            "GetModelStatus": (
                self.status,
                get_model_status_pb2.GetModelStatusRequest,
                self.questions,
            ),
        }
        return {
            f"/{service.full_name}/{name}": Request(*ours[name], self._max_message_bytes)
            if name in ours
            else Unserved(name)
            for service in (PREDICTION_SERVICE, MODEL_SERVICE)
            for name in service.methods_by_name
        }

    def close(self) -> None:
        """Lets the threads end."""
        self.workers.close()
        self.questions.close()

    def predict(self, request: Any, call: Call, log: RequestLog) -> Any:
        """Answers Predict."""
        return self._run("predict", request, call, log)

    def classify(self, request: Any, call: Call, log: RequestLog) -> Any:
        """Answers Classify."""
        return self._run("classify", request, call, log)

    def stream(
        self, spec: model_pb2.ModelSpec, request: RowsRequest, call: Call, log: RequestLog
    ) -> Events:
        """Completes an image row by row; see `Servable.stream`."""
        with self._manager.lease(spec) as servable:
            log.model, log.version = servable.name, servable.version
            log.examples = request.num_completions
            yield from servable.stream(request, call)

    def metadata(self, request: Any, call: Call, log: RequestLog) -> Any:
        """Answers GetModelMetadata."""
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

    def status(self, request: Any, call: Call, log: RequestLog) -> Any:
        """Answers GetModelStatus."""
        _check_spec(request)
        statuses = self._manager.statuses(request.model_spec)
        log.model = request.model_spec.name
        return get_model_status_pb2.GetModelStatusResponse(model_version_status=statuses)

    def _run(self, method: str, request, call: Call, log: RequestLog):
        """Answers a request by the servable's `method`."""
        _check_spec(request)
        with self._manager.lease(request.model_spec) as servable:
            log.model, log.version = servable.name, servable.version
            signature_name = tensors.signature_name(request)
            if signature_name in servable.signatures:
                log.signature = signature_name
            response, tasks = getattr(servable, method)(request, call)
        if call.abandoned:
            raise cancelled()
        _log_tasks(log, tasks)
        return response


def _check_spec(request) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")


def _log_tasks(log: RequestLog, tasks: list[Task]) -> None:
    log.examples = sum(task.size for task in tasks)
    if tasks:
        log.batch_size = max(task.batch_size for task in tasks)
        log.queue_seconds = max(task.started - task.arrived for task in tasks)
