"""A client for served models: of this package's server, or of TensorFlow Serving."""

import dataclasses
import io
import os
import pathlib
from collections.abc import Iterator, Sequence

import grpc
import numpy as np
import PIL.Image
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from igpt_keras.errors import InputError
from igpt_keras.palette import check_images
from igpt_keras.sampling import Completions, check_settings, completion_seeds
from serving.transport import CHANNEL_OPTIONS, MAX_MESSAGE_BYTES

Images = Sequence[str | os.PathLike | bytes | np.ndarray] | np.ndarray


class ServingError(RuntimeError):
    """A request that was not answered with a result.

    Attributes:
        code: the gRPC status code, such as `grpc.StatusCode.INVALID_ARGUMENT` where the
            server refuses a value, or `UNAVAILABLE` where there is no server.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Classifications:
    """Classes of B images.

    Attributes:
        class_names: the C names.
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


class Client:
    """Asks a server for completions and classes.

    >>> with Client("localhost:8500") as client:
    ...     completions = client.complete(["cat.png"], keep_rows=16, num_completions=4)

    Images are a sequence of paths, encoded files (bytes) or uint8 arrays [h, w, 3], or one
    uint8 array [B, h, w, 3]. The server crops and scales them to its model's size.

    Args:
        address: "host:port".
        model_name: the name under which the server has the model.
        timeout: seconds a request may take; None for no limit.
    """

    def __init__(self, address: str, model_name: str = "igpt", timeout: float | None = 60.0):
        self.address = address
        self.model_name = model_name
        self.timeout = timeout
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def complete(
        self,
        images: Images,
        keep_rows: int,
        num_completions: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
    ) -> Completions:
        """`igpt_keras.complete` of the served model, for images of any size.

        Args: as `igpt_keras.complete`, with `images` as above.

        Raises:
            FileNotFoundError: no such image file.
            InputError: an argument that cannot be used.
            ServingError: the server refused the request, or was not reached.
        """
        contents = _contents(images)
        check_settings(keep_rows, num_completions, temperature, top_k, top_p)
        seeds = completion_seeds(seed, len(contents), num_completions)
        batch = seeds.size
        outputs = self._predict(
            "complete",
            {
                "image_bytes": np.repeat(contents, num_completions),
                "keep_rows": np.full(batch, keep_rows, np.int32),
                "temperature": np.full(batch, temperature, np.float32),
                "top_k": np.full(batch, top_k, np.int32),
                "top_p": np.full(batch, top_p, np.float32),
                "seed": seeds.reshape(-1),
            },
            ["pixels", "tokens", "log_likelihood"],
        )
        pixels, tokens, log_likelihood = (
            values.reshape(*seeds.shape, *values.shape[1:]) for values in outputs
        )
        return Completions(pixels, tokens, log_likelihood)

    def classify(self, images: Images) -> Classifications:
        """The served classifier's classes of images.

        Raises:
            FileNotFoundError: no such image file.
            InputError: images that cannot be used.
            ServingError: the server refused the request, or was not reached.
        """
        inputs = {"image_bytes": _contents(images)}
        classes, scores, logits = self._predict(
            "classify_images", inputs, ["classes", "scores", "logits"]
        )
        return Classifications([name.decode() for name in classes[0]], scores, logits)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _predict(self, signature_name: str, inputs: dict[str, np.ndarray], outputs: list[str]):
        """The named outputs, in that order, in as many requests as the message limit asks for."""
        answers = [
            self._request(
                signature_name, {name: values[part] for name, values in inputs.items()}, outputs
            )
            for part in _parts(inputs["image_bytes"], MAX_MESSAGE_BYTES // 2)
        ]
        return [np.concatenate(values) for values in zip(*answers, strict=True)]

    def _request(self, signature_name, inputs, outputs) -> list[np.ndarray]:
        request = predict_pb2.PredictRequest(output_filter=outputs)
        request.model_spec.name = self.model_name
        request.model_spec.signature_name = signature_name
        for name, values in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        try:
            response = self._stub.Predict(request, timeout=self.timeout)
        except grpc.RpcError as error:
            message = f"{self.address}: {error.code().name}: {error.details()}"
            raise ServingError(error.code(), message) from None
        return [tf.make_ndarray(response.outputs[name]) for name in outputs]


def _contents(images: Images) -> np.ndarray:
    """Images as encoded files, object [B]."""
    if isinstance(images, str | bytes | os.PathLike):
        raise InputError(f"images must be a sequence of images, got one {type(images).__name__}")
    if not len(images):
        raise InputError("images must hold at least one image, got none")
    # Not numpy's own byte strings: they lose zeros at the end.
    contents = np.empty(len(images), dtype=object)
    contents[:] = [_content(image) for image in images]
    return contents


def _content(image) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        return pathlib.Path(image).read_bytes()
    pixels = check_images(image)
    if pixels.ndim != 3:
        raise InputError(f"an image must have shape [height, width, 3], got {list(pixels.shape)}")
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _parts(contents: np.ndarray, limit: int) -> Iterator[slice]:
    """Cuts [B] contents into runs of at most `limit` bytes, or of one."""
    start, total = 0, 0
    for index, content in enumerate(contents):
        if index > start and total + len(content) > limit:
            yield slice(start, index)
            start, total = index, 0
        total += len(content)
    yield slice(start, len(contents))
