"""Requests that were not answered with a result, one type for each status."""

import re

import grpc

# What TensorFlow Serving says to Predict, and to Classify.
NO_SIGNATURE = re.compile('ignature key ".*" not found|No signature was found')
# What an export needs for a signature to be there; see `serving.export`.
NEEDS = {
    "complete": "an autoregressive model with token logits",
    "sample": "an autoregressive model with token logits",
    "score": "an autoregressive model with token logits",
    "classify": "a classifier: a generative model has no classes",
    "classify_images": "a classifier: a generative model has no classes",
}


class ServingError(RuntimeError):
    """A request that was not answered with a result.

    Attributes:
        code: the gRPC status code.
    """

    code = grpc.StatusCode.UNKNOWN

    def __init__(self, message: str, code: grpc.StatusCode | None = None):
        super().__init__(message)
        self.code = code or type(self).code


class InvalidArgument(ServingError):
    """The server refuses a value: of a setting, an image, a tensor's type or shape."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(ServingError):
    """The server has no such model, version or version label."""

    code = grpc.StatusCode.NOT_FOUND


class FailedPrecondition(ServingError):
    """The model does not offer what was asked for."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class MissingSignature(FailedPrecondition):
    """The model has no signature of that name, such as classes of a generative model."""


class DeadlineExceeded(ServingError):
    """There was no answer within the timeout."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unavailable(ServingError):
    """There is no server at the address, or none that takes requests; retries did not help."""

    code = grpc.StatusCode.UNAVAILABLE


class ResourceExhausted(ServingError):
    """A message above the size limit, or more requests than the server's queue holds."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unauthenticated(ServingError):
    """The server does not know who is asking."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(ServingError):
    """The server does not answer who is asking."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unimplemented(ServingError):
    """The server does not know the call."""

    code = grpc.StatusCode.UNIMPLEMENTED


class Cancelled(ServingError):
    """The request was cancelled before it was answered."""

    code = grpc.StatusCode.CANCELLED


class Internal(ServingError):
    """A fault of the server; its log has more."""

    code = grpc.StatusCode.INTERNAL


TYPES = {cls.code: cls for cls in ServingError.__subclasses__()}


def serving_error(
    address: str, code: grpc.StatusCode, details: str, signature_name: str = ""
) -> ServingError:
    """The error of a status that the server at `address` answered with.

    Args:
        address: of the server, for the message.
        code: the status.
        details: what the server says.
        signature_name: that was asked for.
    """
    message = f"{address}: {code.name}: {' '.join(details.split())}"
    if NO_SIGNATURE.search(details):
        needs = NEEDS.get(signature_name)
        return MissingSignature(f"{message} It needs {needs}." if needs else message, code)
    return TYPES.get(code, ServingError)(message, code)
