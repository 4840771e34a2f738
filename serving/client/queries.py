"""Requests to a server and how to read the responses, independent of the connection.

A query has several requests where one would be larger than the server's limits.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
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
from serving.client.answers import Classifications, Scores
from serving.client.carriers import Carrier, Exchange
from serving.client.classes import Condition, Labels, make_condition
from serving.client.images import AnyImage, Images, encoded_images
from serving.client.rows import RowsReader, known_mask, row_settings
from serving.image_headers import declared_pixels
from serving.transport import MAX_REQUEST_PIXELS

PICTURES = ("pixels", "tokens", "log_likelihood")


@dataclasses.dataclass(frozen=True)
class Query:
    """Requests of one kind.

    Attributes:
        exchange: The requests in order, as the carrier says them; returns the result.
        signature_name: The signature that the requests ask for, or "".
    """

    exchange: Exchange[Any]
    signature_name: str = ""


@dataclasses.dataclass(frozen=True)
class RowsQuery:
    """A request for rows of completions as they come.

    Attributes:
        message: The request, as the carrier says it.
        reader: Makes completions from the parts of the response.
    """

    message: Any
    reader: RowsReader


@dataclasses.dataclass(frozen=True)
class Served:
    """A model on a server, for which it makes queries. See `BaseClient` for the methods.

    Attributes:
        carrier: Says the requests about it.
        batch_size: Most examples in a request.
        max_message_bytes: The largest request and response. A request has inputs of up to half
            of it, except for one example that is larger.
    """

    carrier: Carrier
    batch_size: int
    max_message_bytes: int

    def complete(
        self,
        images: Images,
        keep_rows: int,
        num_completions: int,
        labels: Labels | None,
        guidance_scale: float,
        sampler: Categorical | None,
        seed: int | Sequence[int],
    ) -> Query:
        contents = encoded_images(images)
        check_keep_rows(keep_rows)
        check_positive("num_completions", num_completions)
        condition = make_condition(labels, guidance_scale, len(contents), num_completions)
        seeds = completion_seeds(seed, len(contents), num_completions)
        inputs = {
            "image_bytes": np.repeat(contents, num_completions),
            "keep_rows": np.full(seeds.size, keep_rows, np.int32),
        }
        return self._draw("complete", inputs, condition, sampler, seeds)

    def sample(
        self,
        num_samples: int,
        labels: Labels | None,
        guidance_scale: float,
        sampler: Categorical | None,
        seed: int | Sequence[int],
    ) -> Query:
        check_positive("num_samples", num_samples)
        condition = make_condition(labels, guidance_scale, num_samples)
        return self._draw("sample", {}, condition, sampler, completion_seeds(seed, num_samples, 1))

    def _draw(self, signature_name, inputs, condition, sampler, seeds) -> Query:
        """A query whose outputs [B · N, …] are the completions of seeds [B, N]."""
        sampler = _checked(sampler)

        def read(outputs):
            images, tokens, log_likelihood = (
                outputs[name].reshape(*seeds.shape, *outputs[name].shape[1:]) for name in PICTURES
            )
            return Completions(images, tokens, log_likelihood)

        inputs = {**inputs, **sampler.arrays(seeds.size), "seed": seeds.reshape(-1)}
        return self.predict(signature_name, inputs, PICTURES, read, condition)

    def complete_rows(
        self,
        image: AnyImage | None,
        keep_rows: int | None,
        known: np.ndarray | None,
        num_completions: int,
        labels: Labels | None,
        guidance_scale: float,
        sampler: Categorical | None,
        seed: int,
    ) -> RowsQuery:
        mask = known_mask(image, keep_rows, known)
        settings = row_settings(image, keep_rows, mask, num_completions, _checked(sampler), seed)
        condition = make_condition(labels, guidance_scale, 1)
        if condition.labels is not None:
            (settings["labels"],) = condition.labels
            settings["guidance_scale"] = condition.guidance_scale
        reader = RowsReader(keep_rows, mask, num_completions, self.max_message_bytes)
        return RowsQuery(self.carrier.complete_rows(settings), reader)

    def classify(self, images: Images) -> Query:
        def read(outputs):
            names = [name.decode() for name in outputs["classes"][0]]
            return Classifications(names, outputs["scores"], outputs["logits"])

        return self._for_images("classify_images", images, ["classes", "scores", "logits"], read)

    def features(self, images: Images) -> Query:
        return self._for_images(
            "features", images, ["features"], lambda outputs: outputs["features"]
        )

    def score(self, images: Images, labels: Labels | None) -> Query:
        contents = encoded_images(images)
        return self.predict(
            "score",
            {"image_bytes": contents},
            ["log_likelihood", "bits_per_pixel"],
            lambda outputs: Scores(**outputs),
            make_condition(labels, 1.0, len(contents)),
        )

    def _for_images(self, signature_name, images, outputs, read) -> Query:
        return self.predict(signature_name, {"image_bytes": encoded_images(images)}, outputs, read)

    def predict(
        self,
        signature_name: str,
        inputs: dict[str, np.ndarray],
        outputs: Sequence[str] = (),
        read: Callable[[dict[str, np.ndarray]], Any] = dict,
        condition: Condition | None = None,
    ) -> Query:
        """A query of any signature with inputs [B, …], split where a request would be too large."""
        inputs = {name: _array(values) for name, values in inputs.items()}
        batch_sizes = {values.shape[:1] for values in inputs.values()}
        if len(batch_sizes) != 1 or batch_sizes <= {(), (0,)}:
            raise InputError(
                "inputs must have one batch size of at least 1, got shapes "
                f"{ ({name: list(values.shape) for name, values in inputs.items()}) }"
            )

        def exchange():
            given = inputs
            if condition is not None:
                ((count,),) = batch_sizes
                further = yield from condition.inputs(self.carrier, signature_name, count)
                given = {**inputs, **further}
            answers = []
            for part in self.parts(given):
                of_part = {name: values[part] for name, values in given.items()}
                answer = yield from self.carrier.predict(signature_name, of_part, [*outputs])
                answers.append(answer)
            return read(_joined(answers))

        return Query(exchange(), signature_name)

    def parts(self, inputs: dict[str, np.ndarray]) -> Iterator[slice]:
        """Splits inputs [B, …] into parts within the limits, or of one example that is larger."""
        bytes_of_each = np.sum(
            [self.carrier.bytes_of_each(values) for values in inputs.values()], axis=0
        )
        pixels_of_each = np.sum([_pixels_of_each(values) for values in inputs.values()], axis=0)
        sizes = np.stack([bytes_of_each, pixels_of_each, np.ones_like(bytes_of_each)], axis=1)
        limits = [self.max_message_bytes // 2, MAX_REQUEST_PIXELS, self.batch_size]
        start, total = 0, np.zeros_like(limits)
        for index, size in enumerate(sizes):
            if index > start and (total + size > limits).any():
                yield slice(start, index)
                start, total = index, np.zeros_like(limits)
            total += size
        yield slice(start, len(sizes))

    def status(self) -> Query:
        return Query(self.carrier.status())

    def signatures(self) -> Query:
        def exchange():
            return sorted((yield from self.carrier.signatures()))

        return Query(exchange())


def _checked(sampler: Any) -> Categorical:
    sampler = Categorical() if sampler is None else sampler
    if not isinstance(sampler, Categorical):
        raise InputError(f"sampler must be a Categorical, as in every export, got {sampler}")
    return sampler


def _joined(answers: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenates the outputs of all answers."""
    return {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}


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
