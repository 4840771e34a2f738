"""The errors of a request that was not answered with a result."""

import re

import grpc

# TensorFlow Serving's words, in Predict, over REST and in Classify.
_NO_SIGNATURE = re.compile('ignature (key|name:) ".*" not found|No signature was found')
# TensorFlow Serving's words for a path of the REST API that it does not know.
_NO_STREAM = re.compile("Malformed request: POST .*:stream")
# What an export needs for a signature to be there; see `serving.exporting`.
_NEEDS = {
    "complete": "an autoregressive model with token logits",
    "sample": "an autoregressive model with token logits",
    "score": "an autoregressive model with token logits",
    "classify": "a classifier or a class-conditional model: others have no classes",
    "classify_images": "a classifier or a class-conditional model: others have no classes",
}


class Failure(Exception):
    """One attempt of a request that ended without a result.

    Attributes:
        code: The gRPC status code.
        details: The server's words, or what happened instead of an answer.
    """

    def __init__(self, code: grpc.StatusCode, details: str):
        super().__init__(code, details)
        self.code = code
        self.details = details


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
            too large or a queue that is full, UNIMPLEMENTED for what a server cannot do, UNKNOWN
            for an answer that no model server gives. REST has fewer codes than gRPC: a
            FAILED_PRECONDITION, for example, comes as INVALID_ARGUMENT.
    """

    def __init__(self, message: str, code: grpc.StatusCode):
        super().__init__(message)
        self.code = code


class MissingSignatureError(ServingError):
    """The model has no signature of that name, such as classes of a generative model."""


def serving_error(address: str, failure: Failure, signature_name: str = "") -> ServingError:
    """Makes the error for a failure.

    Args:
        address: The server's.
        failure: The last attempt's.
        signature_name: The signature that was asked for.
    """
    code, details = failure.code, " ".join(failure.details.split())
    if _NO_STREAM.search(details):
        code = grpc.StatusCode.UNIMPLEMENTED
        details = f"only igpt serve answers with rows as they come ({details})"
    message = f"{address}: {code.name}: {details}"
    if _NO_SIGNATURE.search(details):
        needs = _NEEDS.get(signature_name)
        return MissingSignatureError(f"{message} It needs {needs}." if needs else message, code)
    return ServingError(message, code)
