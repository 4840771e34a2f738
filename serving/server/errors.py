"""The error that a request which cannot be answered ends with."""

import re

import grpc
import tensorflow as tf

GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
# A status travels in HTTP/2 trailers, of which clients accept 8 KiB by default.
MAX_MESSAGE_LENGTH = 1024


class RequestError(Exception):
    """A request that is not answered with a result.

    Attributes:
        code: The gRPC status that the client gets.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message[:MAX_MESSAGE_LENGTH])
        self.code = code

    @classmethod
    def from_tensorflow(cls, error: tf.errors.OpError) -> "RequestError":
        """Makes the error from TensorFlow's, without the name and place of the failed node."""
        message = re.sub(r"^(\{\{function_node \S+\}\} )+", "", error.message)
        return cls(GRPC_CODES[error.error_code], message.split("\n\t [[")[0])


def invalid(message: str) -> RequestError:
    """Returns a `RequestError` with the status INVALID_ARGUMENT."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


def cancelled() -> RequestError:
    """Returns the error of a request whose client no longer waits."""
    return RequestError(grpc.StatusCode.CANCELLED, "the client has gone")
