"""What a blocking and an asynchronous client share: the requests and their arguments."""

import abc
import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.sampling.requests import Completions
from igpt_keras.sampling.samplers import Categorical
from serving.client.answers import Classifications, Scores, VersionStatus
from serving.client.carriers import ModelSpec, carrier_for
from serving.client.classes import Label, Labels
from serving.client.connection import TLS, Attempts, Deadline, RetryPolicy
from serving.client.errors import Failure, serving_error
from serving.client.images import AnyImage, Images
from serving.client.queries import Query, RowsQuery, Served
from serving.transport import MAX_MESSAGE_BYTES


class BaseClient(abc.ABC):
    """The requests to a served model, on our server or on TensorFlow Serving.

    Images are a sequence of paths, image files (bytes), uint8 arrays [h, w, 3] and PIL images,
    in any mixture, or one uint8 array [B, h, w, 3]. The client decodes each as
    `igpt_keras.data.read_image` does, and sends a JPEG as it is and the center square of anything
    else as a PNG. The server scales them to its model's size R. The methods raise:

    - `FileNotFoundError`: An image file does not exist.
    - `InputError`: An argument is one that no server accepts, or an image cannot be read.
    - `ServingError`: The server refused the request or could not be reached; see its `code`.

    Args:
        address: "host:port", or a name in gRPC's notation, such as "unix:/path" or
            "dns:///host:port". "http://host:port" and "https://host:port" are addresses of
            the REST API, which answers the same.
        model_name: The server's name for the model.
        timeout: Time in seconds for a method with all its requests and retries; None for no
            limit. Over gRPC the server is told how much of it is left; over REST the connection
            is closed when it ends.
        version: The model's version; None for the newest.
        version_label: A label that the server has for a version, instead of `version`.
        tls: An encrypted connection; None for one without encryption, or, if the address begins
            with "https:", for the system's certificate authorities.
        retries: When to repeat a request that met UNAVAILABLE; None for the defaults.
        batch_size: Most examples in a request; at most the server's `max_batch_size`.
        max_message_bytes: The largest request and response in bytes; at most the server's limit.
    """

    def __init__(
        self,
        address: str,
        model_name: str = "igpt",
        timeout: float | None = 60.0,
        *,
        version: int | None = None,
        version_label: str | None = None,
        tls: TLS | None = None,
        retries: RetryPolicy | None = None,
        batch_size: int = 32,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ):
        if version is not None and version_label is not None:
            raise InputError(
                "one of version and version_label may be given, "
                f"got {version} and {version_label!r}"
            )
        for name, value in (("batch_size", batch_size), ("max_message_bytes", max_message_bytes)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if timeout is not None and not timeout > 0:
            raise InputError(f"timeout must be above 0, or None, got {timeout}")
        self.address = address
        self.timeout = timeout
        model = ModelSpec(model_name, version, version_label)
        self._carrier = carrier_for(address, model, tls, max_message_bytes)
        self._served = Served(self._carrier, batch_size, max_message_bytes)
        self._retries = retries or RetryPolicy()
        self._pauses = random.Random(self._retries.seed)

    def complete(
        self,
        images: Images,
        *,
        keep_rows: int,
        num_completions: int = 1,
        labels: Labels | None = None,
        guidance_scale: float = 1.0,
        sampler: Categorical | None = None,
        seed: int | Sequence[int] = 0,
    ) -> Completions:
        """Completes images, as `ImageGPT.generate` does.

        Args:
            images: B images of any size.
            keep_rows: The number of rows of the R × R image that are kept, 0…R.
            num_completions: The number N of completions of each image.
            labels: The class of all images or of each, by number or name, for a
                class-conditional model; None for any class.
            guidance_scale: How much the class counts; above 1, images are more typical of it, at
                twice the computation.
            sampler: Temperature, top-k and top-p; None for the model's own distribution.
            seed: One integer per image, or one integer s for the seeds s, s + 1, …

        Returns:
            `images` uint8 [B, N, R, R, 3], `tokens` int32 [B, N, n] and `log_likelihood`
            float32 [B, N]; None for the rest.
        """
        return self._ask(
            self._served.complete(
                images, keep_rows, num_completions, labels, guidance_scale, sampler, seed
            )
        )

    def complete_rows(
        self,
        image: AnyImage | None,
        *,
        keep_rows: int | None = None,
        known: np.ndarray | None = None,
        num_completions: int = 1,
        labels: Label | None = None,
        guidance_scale: float = 1.0,
        sampler: Categorical | None = None,
        seed: int = 0,
    ) -> Any:
        """Completes one image and returns its rows as they come, from the REST API of `igpt serve`.

        The completions are those of `complete` with the same seed. Whoever ends the iteration
        early stops the server's work.

        ```python
        with Client("http://localhost:8501") as client:
            for partial in client.complete_rows("cat.png", keep_rows=16, num_completions=4):
                print(partial.num_rows, partial.images.shape)
        ```

        Args:
            image: An image of any size; None samples new ones, without `keep_rows` and `known`.
            keep_rows: The number of rows of the R × R image that are kept, 0…R.
            known: A mask bool [R, R] of the pixels that are kept, instead of `keep_rows`.
            num_completions: The number N of completions.
            labels: The image's class, as for `complete`.
            guidance_scale: As for `complete`.
            sampler: Temperature, top-k and top-p; None for the model's own distribution.
            seed: The image's seed.

        Returns:
            An iterator of `PartialCompletions`, asynchronous from an `AsyncClient`: one before
            the first row, one after each row, and one with the likelihoods at the end. Where
            pixels depend on all tokens, the rows come together.

        Raises:
            ServingError: While iterating. UNIMPLEMENTED is the code of a server that is not
                `igpt serve`.
        """
        how = (labels, guidance_scale, sampler, seed)
        return self._follow(
            self._served.complete_rows(image, keep_rows, known, num_completions, *how)
        )

    def sample(
        self,
        num_samples: int,
        *,
        labels: Labels | None = None,
        guidance_scale: float = 1.0,
        sampler: Categorical | None = None,
        seed: int = 0,
    ) -> Completions:
        """Samples new images, as `ImageGPT.sample` does.

        Args:
            num_samples: The number B of images.
            labels: As for `complete`, for each sample.
            guidance_scale: As for `complete`.
            sampler: Temperature, top-k and top-p; None for the model's own distribution.
            seed: The integer s for the seeds s, s + 1, …

        Returns:
            As `complete`, with N = 1.
        """
        return self._ask(self._served.sample(num_samples, labels, guidance_scale, sampler, seed))

    def classify(self, images: Images) -> Classifications:
        """Classifies images.

        A class-conditional model does so by Bayes' rule: its logits are the log-likelihoods of the
        image given each class, in nats, and its classes are taken to be equally frequent.
        """
        return self._ask(self._served.classify(images))

    def features(self, images: Images) -> np.ndarray:
        """Returns the features of images, float32 [B, d], from the layer chosen at export."""
        return self._ask(self._served.features(images))

    def score(self, images: Images, labels: Labels | None = None) -> Scores:
        """Returns the likelihood of images, cropped and scaled to the model's size.

        Args:
            images: B images.
            labels: As for `complete`, for likelihoods given the class.
        """
        return self._ask(self._served.score(images, labels))

    def predict(
        self, signature_name: str, inputs: dict[str, Any], outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Calls a signature by its name.

        Args:
            signature_name: The signature.
            inputs: Arrays [B, …] by name, with the signature's dtypes; strings as bytes.
            outputs: The names of the outputs to return; all if empty.

        Returns:
            Arrays [B, …] by name.
        """
        return self._ask(self._served.predict(signature_name, inputs, outputs))

    def status(self) -> list[VersionStatus]:
        """Returns the versions of the model that the server knows."""
        return self._ask(self._served.status())

    def signatures(self) -> list[str]:
        """Returns the names of the model's signatures."""
        return self._ask(self._served.signatures())

    @abc.abstractmethod
    def _ask(self, query: Query) -> Any:
        """Sends the query's requests and returns its result."""

    @abc.abstractmethod
    def _follow(self, query: RowsQuery) -> Any:
        """Sends the query's request and returns an iterator of what its reader makes."""

    @contextlib.contextmanager
    def _errors(self, signature_name: str = "") -> Iterator[None]:
        """Makes the errors of failures."""
        try:
            yield
        except Failure as failure:
            raise serving_error(self.address, failure, signature_name) from None

    def _attempts(self, deadline: Deadline) -> Attempts:
        return Attempts(self._retries, deadline, self._pauses)
