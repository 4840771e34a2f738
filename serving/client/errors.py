"""The errors of a request that was not answered with a result."""

import re

import grpc

# TensorFlow Serving's words, in Predict and in Classify.
_NO_SIGNATURE = re.compile('ignature key ".*" not found|No signature was found')
# What an export needs for a signature to be there; see `serving.exporting`.
_NEEDS = {
    "complete": "an autoregressive model with token logits",
    "sample": "an autoregressive model with token logits",
    "score": "an autoregressive model with token logits",
    "classify": "a classifier: a generative model has no classes",
    "classify_images": "a classifier: a generative model has no classes",
}


class ServingError(RuntimeError):
    """A request that was not answered with a result.

    ```python
    try:
        completions = client.complete(images, keep_rows=16)
    except ServingError as error:
        if error.code != grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
    ```

    Attributes:
        code: The gRPC status code: UNAVAILABLE without a server that takes requests,
            DEADLINE_EXCEEDED after the timeout, INVALID_ARGUMENT for a value that the server
            refuses, NOT_FOUND for an unknown model or version, RESOURCE_EXHAUSTED for a message
            too large or a queue that is full.
    """

    def __init__(self, message: str, code: grpc.StatusCode):
        super().__init__(message)
        self.code = code


class MissingSignatureError(ServingError):
    """The model has no signature of that name, such as classes of a generative model."""


def serving_error(
    address: str, code: grpc.StatusCode, details: str, signature_name: str = ""
) -> ServingError:
    """Makes the error for a status.

    Args:
        address: The server's.
        code: The status.
        details: The server's words.
        signature_name: The signature that was asked for.
    """
    message = f"{address}: {code.name}: {' '.join(details.split())}"
    if _NO_SIGNATURE.search(details):
        needs = _NEEDS.get(signature_name)
        return MissingSignatureError(f"{message} It needs {needs}." if needs else message, code)
    return ServingError(message, code)
