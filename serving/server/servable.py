"""One version of a model, which answers requests."""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

import contextlib
import os
import pathlib
from collections.abc import Callable, Mapping
from functools import partial

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    model_pb2,
    predict_pb2,
    prediction_log_pb2,
)

from igpt_keras.errors import InputError
from serving.description import DESCRIPTION_FILE, Description
from serving.image_headers import declared_pixels
from serving.row_functions import DECODE_ROW
from serving.server import tensor_protos, tensors
from serving.server.batching import Batcher, Call, Task
from serving.server.configuration import BatchingParameters
from serving.server.errors import RequestError
from serving.server.pixels import PixelBudget, pixels_of
from serving.server.row_streams import Events, Row, RowsRequest, RowStreams, StateBudget
from serving.server.saved_model import SavedModel
from serving.server.tensorflow_internals import CancellationManager, SignatureDef
from serving.versions import WARMUP_FILE

# TensorFlow Serving refuses more (saved_model_warmup_util.h).
MAX_WARMUP_REQUESTS = 1000


class Servable:
    """A loaded SavedModel, whose warm-up requests have run.

    Args:
        name: The model's name.
        version: The version's number.
        folder: The SavedModel's folder.
        parameters: How requests are batched.
        budget: Limits the pixels of requests, except for those of the warm-up.
        states: Limits the memory of completions that come row by row.
        observe_batch: Called with the signature and the size of every batch. A row of
            completions is a batch of `decode_row`.

    Attributes:
        name, version: As given.
        signatures: The `SignatureDef`s by name.
        description: What the export says about its models.

    Raises:
        InputError: The folder cannot be loaded, or a warm-up request fails.
    """

    def __init__(
        self,
        name: str,
        version: int,
        folder: str | os.PathLike,
        parameters: BatchingParameters,
        budget: PixelBudget,
        states: StateBudget,
        observe_batch: Callable[[str, int], None],
    ):
        self.name, self.version = name, version
        self._model = SavedModel(folder)
        self.signatures = self._model.signatures
        self.description = Description.read(pathlib.Path(folder, "assets", DESCRIPTION_FILE))
        self._max_examples = min(parameters.max_batch_size, parameters.capacity)
        self._batchers = {
            signature_name: Batcher(
                partial(self._model.run, signature_name),
                parameters,
                partial(observe_batch, signature_name),
                partial(self._count_pixels, signature_name),
                budget.max_request_pixels,
            )
            for signature_name, signature in self.signatures.items()
            # What is the same shares a batcher, and is made ready once.
            if self._model.canonical[signature_name] == signature_name and _has_batches(signature)
        }
        self._hold_pixels = lambda pixels, client: contextlib.nullcontext()
        self._warm_up(pathlib.Path(folder, WARMUP_FILE))
        self._observe_row = partial(observe_batch, DECODE_ROW)
        self._streams = self._row_streams(states)
        self._hold_pixels = budget.hold

    @property
    def streams(self) -> bool:
        """Whether `stream` completes images."""
        return self._streams is not None

    def predict(
        self, request: predict_pb2.PredictRequest, call: Call
    ) -> tuple[predict_pb2.PredictResponse, list[Task]]:
        """Answers Predict.

        Returns:
            The response, and the tasks in which it was computed.

        Raises:
            RequestError: The request cannot be answered.
        """
        name = tensors.signature_name(request)
        signature = tensors.predict_signature(self.signatures, name)
        inputs = tensors.predict_inputs(signature, request.inputs, self._max_examples)
        wanted = tensors.predict_outputs(signature, request.output_filter)
        outputs, tasks = self._run(name, inputs, call)
        response = predict_pb2.PredictResponse(model_spec=self._spec(name))
        for output in wanted:
            tensor_protos.write(outputs[output], response.outputs[output])
        return response, tasks

    def classify(
        self, request: classification_pb2.ClassificationRequest, call: Call
    ) -> tuple[classification_pb2.ClassificationResponse, list[Task]]:
        """Answers Classify; returns and raises as `predict` does."""
        name = tensors.signature_name(request)
        tensors.classify_signature(self.signatures, name)
        inputs = tensors.classify_inputs(request.input, self._max_examples)
        outputs, tasks = self._run(name, inputs, call)
        response = classification_pb2.ClassificationResponse(
            model_spec=self._spec(name), result=tensors.classification_result(outputs)
        )
        return response, tasks

    def stream(self, request: RowsRequest, call: Call) -> Events:
        """Completes an image row by row, as fast as the events are taken.

        Yields:
            A `Start`, a `Row` for each row from the first with an unknown pixel on, and a `Done`.

        Raises:
            RequestError: The request cannot be answered, or its call was abandoned.
        """
        if self._streams is None:
            raise RequestError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"version {self.version} of model {self.name} does not complete row by row",
            )
        pixels = 0 if request.image is None else declared_pixels(request.image)
        with self._hold_pixels(pixels, call.client):
            for event in self._streams.run(request, call):
                if isinstance(event, Row):
                    self._observe_row(request.num_completions)
                yield event

    def queued(self) -> Mapping[str, int]:
        """Returns the number of examples that wait, by signature."""
        return {name: batcher.queued for name, batcher in self._batchers.items()}

    def close(self) -> None:
        """Returns when nothing runs or waits."""
        for batcher in self._batchers.values():
            batcher.close()

    def _run(self, name: str, inputs: dict[str, np.ndarray], call: Call):
        """Returns all outputs of signature `name`, and the tasks that computed them."""
        name = self._model.canonical[name]
        if name not in self._batchers or not tensors.batch_size(inputs):
            cancellation = CancellationManager()
            call.when_abandoned(cancellation.start_cancel)
            with self._hold_pixels(self._count_pixels(name, inputs), call.client):
                return self._model.run(name, inputs, cancellation), []
        tasks = self._batchers[name].split(inputs, call)
        with self._hold_pixels(sum(task.pixels for task in tasks), call.client):
            self._batchers[name].submit(tasks)
            try:
                parts = [task.future.result() for task in tasks]
            except Exception:
                # The request's other tasks need not run.
                call.abandon()
                raise
        outputs = {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}
        return outputs, tasks

    def _count_pixels(self, name: str, inputs: dict[str, np.ndarray]) -> int:
        """Returns the number of pixels that the images in inputs of signature `name` declare."""
        examples = self.signatures[name].method_name == tensors.CLASSIFY_METHOD
        return pixels_of(inputs, examples=examples)

    def _row_streams(self, states: StateBudget) -> RowStreams | None:
        if self._model.row_functions is None:
            return None
        try:
            return RowStreams(self._model.row_functions, states, self.description.label_names)
        except RequestError as error:
            self.close()
            raise InputError(f"the functions that complete row by row fail: {error}") from error

    def _warm_up(self, path: pathlib.Path) -> None:
        if not path.exists():
            return
        try:
            for number, record in enumerate(tf.data.TFRecordDataset(str(path))):
                if number == MAX_WARMUP_REQUESTS:
                    raise InputError(f"{path} holds more than {MAX_WARMUP_REQUESTS} requests")
                self._replay(prediction_log_pb2.PredictionLog.FromString(record.numpy()))
        except (RequestError, tf.errors.OpError, ValueError) as error:
            self.close()
            raise InputError(f"the warm-up requests in {path} fail: {error}") from error

    def _replay(self, log: prediction_log_pb2.PredictionLog) -> None:
        kind = log.WhichOneof("log_type")
        if kind == "predict_log":
            self.predict(log.predict_log.request, Call())
        elif kind == "classify_log":
            self.classify(log.classify_log.request, Call())
        else:
            raise InputError(f"a warm-up request must be of Predict or Classify, got {kind}")

    def _spec(self, signature_name: str) -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(name=self.name, signature_name=signature_name)
        spec.version.value = self.version
        return spec


def _has_batches(signature: SignatureDef) -> bool:
    """Returns whether every input and output has one row per example.

    A row of an input must have a fixed shape, so that rows of different requests fit together.
    """

    def has_batch(info, *, fixed: bool) -> bool:
        sizes = [dimension.size for dimension in info.tensor_shape.dim]
        if info.tensor_shape.unknown_rank or not sizes:
            return False
        return sizes[0] == -1 and not (fixed and -1 in sizes[1:])

    return (
        bool(signature.inputs)
        and all(has_batch(info, fixed=True) for info in signature.inputs.values())
        and all(has_batch(info, fixed=False) for info in signature.outputs.values())
    )
