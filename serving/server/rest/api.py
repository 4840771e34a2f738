"""TensorFlow Serving's routes."""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server import tensors
from serving.server.batching import Call
from serving.server.calls import Workers
from serving.server.errors import RequestError, cancelled, invalid
from serving.server.lifecycle import ModelManager
from serving.server.monitoring import RequestLog
from serving.server.rest.exchanges import Exchange
from serving.server.rest.json_writing import outputs_json, predictions_json, results_json
from serving.server.rest.paths import MODEL, VERSION, expression, model_spec
from serving.server.rest.requests import fill_examples, predict_inputs, read_request
from serving.server.rest.routes import Route
from serving.server.services import SIGNATURE_DEF, Services


class Api:
    """TensorFlow Serving's REST API.

    Args:
        services: Answer the requests when they are messages.
        manager: The models.
    """

    def __init__(self, services: Services, manager: ModelManager):
        self._services, self._manager = services, manager
        # One request's JSON is in memory at a time.
        self._reading = threading.Lock()

    def routes(self) -> list[Route]:
        """Returns the routes."""
        requests, questions = self._services.workers, self._services.questions
        path = MODEL + VERSION
        return [
            self._route("POST", f"{path}:(?-i:predict)", "Predict", self.predict, requests),
            self._route("POST", f"{path}:(?-i:classify)", "Classify", self.classify, requests),
            self._route("POST", f"{path}:(?-i:regress)", "Regress", self.regress, requests),
            self._route(
                "GET", f"{path}/(?-i:metadata)", "GetModelMetadata", self.metadata, questions
            ),
            self._route("GET", path, "GetModelStatus", self.status, questions),
        ]

    def predict(self, spec: model_pb2.ModelSpec, body: bytes, call: Call, log: RequestLog) -> bytes:
        """Answers predict."""
        request = predict_pb2.PredictRequest(model_spec=spec)
        with self._turn(call):
            document = read_request(body, request.model_spec)
            # A newer version may answer; it has the same inputs, or refuses.
            with self._manager.lease(request.model_spec) as servable:
                infos = _input_infos(servable.signatures, request.model_spec.signature_name)
            inputs, in_rows = predict_inputs(document, infos)
            del document
        for name, tensor in inputs.items():
            request.inputs[name].CopyFrom(tensor)
        response = self._services.predict(request, call, log)
        return (predictions_json if in_rows else outputs_json)(response.outputs)

    def classify(
        self, spec: model_pb2.ModelSpec, body: bytes, call: Call, log: RequestLog
    ) -> bytes:
        """Answers classify."""
        request = classification_pb2.ClassificationRequest(model_spec=spec)
        with self._turn(call):
            fill_examples(read_request(body, request.model_spec), request.input)
        return results_json(self._services.classify(request, call, log).result)

    def regress(self, spec: model_pb2.ModelSpec, body: bytes, call: Call, log: RequestLog) -> bytes:
        """Refuses regress, as TensorFlow Serving does for a model without such a signature."""
        request = regression_pb2.RegressionRequest(model_spec=spec)
        with self._turn(call):
            fill_examples(read_request(body, request.model_spec), request.input)
        with self._manager.lease(request.model_spec) as servable:
            log.model, log.version = servable.name, servable.version
            tensors.check_regress_signature(servable.signatures, tensors.signature_name(request))
        raise RequestError(grpc.StatusCode.UNIMPLEMENTED, "Method not found: Regress")

    def metadata(
        self, spec: model_pb2.ModelSpec, body: bytes, call: Call, log: RequestLog
    ) -> bytes:
        """Answers metadata."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=[SIGNATURE_DEF]
        )
        response = self._services.metadata(request, call, log)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[SIGNATURE_DEF].Unpack(signatures)
        # TensorFlow Serving writes the two messages one by one.
        text = (
            f'{{\n"model_spec":{_message_json(response.model_spec)},\n'
            f'"metadata": {{"signature_def": {_message_json(signatures)}}}\n}}\n'
        )
        return text.encode()

    def status(self, spec: model_pb2.ModelSpec, body: bytes, call: Call, log: RequestLog) -> bytes:
        """Answers the status of a model."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return _message_json(self._services.status(request, call, log)).encode()

    @contextlib.contextmanager
    def _turn(self, call: Call) -> Iterator[None]:
        """Waits for the turn to read a request's JSON."""
        with self._reading:
            if call.abandoned:
                raise cancelled()
            yield

    def _route(
        self,
        http_method: str,
        path: str,
        name: str,
        function: Callable[[model_pb2.ModelSpec, bytes, Call, RequestLog], bytes],
        workers: Workers,
    ) -> Route:
        async def answer(exchange: Exchange) -> None:
            spec = model_spec(exchange.match)
            # A body that would be refused afterwards is not read.
            workers.check_free()
            body = await exchange.receive()
            run = partial(function, spec, body, exchange.call, exchange.log)
            await exchange.reply(await exchange.run(workers, run))

        return Route(http_method, expression(path), name, answer)


def _input_infos(signatures: Any, name: str) -> Any:
    name = name or tensors.SERVING_DEFAULT
    if name not in signatures:
        raise invalid(f'Serving signature name: "{name}" not found in signature def')
    infos = signatures[name].inputs
    if not infos:
        raise invalid(f"Failed to get input map for signature: {name}")
    return infos


def _message_json(message: Any) -> str:
    """Writes a message as protocol buffers' C++ code does with spaces."""
    members = json_format.MessageToDict(
        message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )
    return json.dumps(members, indent=1, ensure_ascii=False) + "\n"
