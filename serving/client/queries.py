"""Requests to a server and how to read the responses, independent of the connection.

A query has several requests where one would be larger than the server's limits.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.sampling.requests import (
    Completions,
    check_keep_rows,
    check_positive,
    completion_seeds,
)
from igpt_keras.sampling.samplers import Categorical
from igpt_keras.short_repr import ShortRepr
from serving.client import protocol
from serving.client.images import Images, encoded_images
from serving.client.protocol import Method, messages
from serving.image_headers import declared_pixels
from serving.transport import MAX_REQUEST_PIXELS

PICTURES = ("pixels", "tokens", "log_likelihood")


@dataclasses.dataclass(frozen=True, repr=False)
class Classifications(ShortRepr):
    """Classes of B images.

    Attributes:
        class_names: The names of the C classes.
        scores: float32 [B, C], probabilities.
        logits: float32 [B, C].
    """

    class_names: list[str]
    scores: np.ndarray
    logits: np.ndarray

    @property
    def best(self) -> list[str]:
        """The most probable class of each image."""
        return [self.class_names[index] for index in self.scores.argmax(axis=1)]


@dataclasses.dataclass(frozen=True, repr=False)
class Scores(ShortRepr):
    """Likelihoods of B images under a model.

    Attributes:
        log_likelihood: float32 [B], in nats, of all pixels.
        bits_per_pixel: float32 [B], the negative log-likelihood in bits, divided by n.
    """

    log_likelihood: np.ndarray
    bits_per_pixel: np.ndarray


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """One version of a served model.

    Attributes:
        version: Its number.
        state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END".
        error: Why it could not be loaded; empty if it could.
    """

    version: int
    state: str
    error: str


@dataclasses.dataclass(frozen=True)
class Query:
    """Requests to one gRPC method, and how to read the responses.

    Attributes:
        method: The method.
        requests: The requests in order.
        read: Makes the result from the responses in the same order.
        signature_name: The signature that the requests ask for, or "".
    """

    method: Method
    requests: Iterable[Any]
    read: Callable[[list[Any]], Any]
    signature_name: str = ""


@dataclasses.dataclass(frozen=True)
class Served:
    """A model on a server, for which it makes queries. See `BaseClient` for the methods.

    Attributes:
        model_name: The server's name for it.
        version: The version; None for the newest.
        version_label: A label that the server has for a version, instead of `version`.
        batch_size: Most examples in a request.
        request_bytes: Most bytes of inputs in a request, except for one example that is larger.
    """

    model_name: str
    version: int | None
    version_label: str | None
    batch_size: int
    request_bytes: int

    def complete(
        self,
        images: Images,
        keep_rows: int,
        num_completions: int,
        sampler: Categorical | None,
        seed: int | Sequence[int],
    ) -> Query:
        contents = encoded_images(images)
        check_keep_rows(keep_rows)
        check_positive("num_completions", num_completions)
        seeds = completion_seeds(seed, len(contents), num_completions)
        inputs = {
            "image_bytes": np.repeat(contents, num_completions),
            "keep_rows": np.full(seeds.size, keep_rows, np.int32),
        }
        return self._draw("complete", inputs, sampler, seeds)

    def sample(
        self, num_samples: int, sampler: Categorical | None, seed: int | Sequence[int]
    ) -> Query:
        check_positive("num_samples", num_samples)
        return self._draw("sample", {}, sampler, completion_seeds(seed, num_samples, 1))

    def _draw(self, signature_name, inputs, sampler, seeds) -> Query:
        """A query whose outputs [B · N, …] are the completions of seeds [B, N]."""
        sampler = Categorical() if sampler is None else sampler
        if not isinstance(sampler, Categorical):
            raise InputError(f"sampler must be a Categorical, as in every export, got {sampler}")

        def read(outputs):
            images, tokens, log_likelihood = (
                outputs[name].reshape(*seeds.shape, *outputs[name].shape[1:]) for name in PICTURES
            )
            return Completions(images, tokens, log_likelihood)

        inputs = {**inputs, **sampler.arrays(seeds.size), "seed": seeds.reshape(-1)}
        return self.predict(signature_name, inputs, PICTURES, read)

    def classify(self, images: Images) -> Query:
        def read(outputs):
            names = [name.decode() for name in outputs["classes"][0]]
            return Classifications(names, outputs["scores"], outputs["logits"])

        return self._for_images("classify_images", images, ["classes", "scores", "logits"], read)

    def features(self, images: Images) -> Query:
        return self._for_images(
            "features", images, ["features"], lambda outputs: outputs["features"]
        )

    def score(self, images: Images) -> Query:
        return self._for_images(
            "score",
            images,
            ["log_likelihood", "bits_per_pixel"],
            lambda outputs: Scores(**outputs),
        )

    def _for_images(self, signature_name, images, outputs, read) -> Query:
        return self.predict(signature_name, {"image_bytes": encoded_images(images)}, outputs, read)

    def predict(
        self,
        signature_name: str,
        inputs: dict[str, np.ndarray],
        outputs: Sequence[str] = (),
        read: Callable[[dict[str, np.ndarray]], Any] = dict,
    ) -> Query:
        """A query of any signature with inputs [B, …], split where a request would be too large."""
        inputs = {name: _array(values) for name, values in inputs.items()}
        batch_sizes = {values.shape[:1] for values in inputs.values()}
        if len(batch_sizes) != 1 or batch_sizes <= {(), (0,)}:
            raise InputError(
                "inputs must have one batch size of at least 1, got shapes "
                f"{ ({name: list(values.shape) for name, values in inputs.items()}) }"
            )

        def requests() -> Iterator[Any]:
            for part in self.parts(inputs):
                yield messages.PredictRequest(
                    model_spec=self._spec(signature_name),
                    inputs=[
                        messages.TensorEntry(key=name, value=protocol.tensor_proto(values[part]))
                        for name, values in inputs.items()
                    ],
                    output_filter=outputs,
                )

        return Query(
            protocol.PREDICT, requests(), lambda responses: read(_joined(responses)), signature_name
        )

    def parts(self, inputs: dict[str, np.ndarray]) -> Iterator[slice]:
        """Splits inputs [B, …] into parts within the limits, or of one example that is larger."""
        bytes_of_each = np.sum([_bytes_of_each(values) for values in inputs.values()], axis=0)
        pixels_of_each = np.sum([_pixels_of_each(values) for values in inputs.values()], axis=0)
        sizes = np.stack([bytes_of_each, pixels_of_each, np.ones_like(bytes_of_each)], axis=1)
        limits = [self.request_bytes, MAX_REQUEST_PIXELS, self.batch_size]
        start, total = 0, np.zeros_like(limits)
        for index, size in enumerate(sizes):
            if index > start and (total + size > limits).any():
                yield slice(start, index)
                start, total = index, np.zeros_like(limits)
            total += size
        yield slice(start, len(sizes))

    def status(self) -> Query:
        def read(responses):
            return [
                VersionStatus(
                    version=status.version,
                    state=protocol.STATES.get(status.state, "UNKNOWN"),
                    error=status.status.error_message,
                )
                for status in responses[0].model_version_status
            ]

        request = messages.GetModelStatusRequest(model_spec=self._spec())
        return Query(protocol.GET_MODEL_STATUS, [request], read)

    def signatures(self) -> Query:
        def read(responses):
            (entry,) = responses[0].metadata
            signatures = messages.SignatureDefMap.FromString(entry.value.value).signature_def
            return sorted(entry.key for entry in signatures if not entry.key.startswith("__"))

        request = messages.GetModelMetadataRequest(
            model_spec=self._spec(), metadata_field=["signature_def"]
        )
        return Query(protocol.GET_MODEL_METADATA, [request], read)

    def _spec(self, signature_name: str = "") -> Any:
        spec = messages.ModelSpec(name=self.model_name, signature_name=signature_name)
        if self.version is not None:
            spec.version.value = self.version
        elif self.version_label is not None:
            spec.version_label = self.version_label
        return spec


def _joined(responses: list[Any]) -> dict[str, np.ndarray]:
    """Concatenates the outputs of all responses."""
    outputs = [
        {entry.key: protocol.array(entry.value) for entry in response.outputs}
        for response in responses
    ]
    return {name: np.concatenate([each[name] for each in outputs]) for name in outputs[0]}


def _array(values) -> np.ndarray:
    """Makes an array; strings become objects, because NumPy's own lose trailing zeros."""
    if isinstance(values, list) and values and isinstance(values[0], bytes):
        return np.array(values, object)
    return np.asarray(values)


def _pixels_of_each(values: np.ndarray) -> np.ndarray:
    """Returns the pixels of the image files in each of B examples: int [B]."""
    if values.dtype.kind == "O":
        return np.array([sum(map(declared_pixels, row)) for row in values.reshape(len(values), -1)])
    return np.zeros(len(values), int)


def _bytes_of_each(values: np.ndarray) -> np.ndarray:
    """Returns the size of each of B examples in bytes: int [B]."""
    if values.dtype.kind == "O":
        return np.array([sum(map(len, row)) for row in values.reshape(len(values), -1)])
    return np.full(len(values), values[:1].nbytes)
