"""What a request that cannot be answered ends with."""

import re

import grpc
import tensorflow as tf

GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
# A status travels in HTTP/2 trailers, of which clients take 8 KiB by default.
MAX_MESSAGE_LENGTH = 1024


class RequestError(Exception):
    """A request that is not answered with a result.

    Attributes:
        code: the gRPC status that the client gets.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message[:MAX_MESSAGE_LENGTH])
        self.code = code

    @classmethod
    def of(cls, error: tf.errors.OpError) -> "RequestError":
        """What TensorFlow says, without the node that says it."""
        message = re.sub(r"^(\{\{function_node \S+\}\} )+", "", error.message)
        return cls(GRPC_CODES[error.error_code], message.split("\n\t [[")[0])


def invalid(message: str) -> RequestError:
    """An `RequestError` with the status INVALID_ARGUMENT."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


def cancelled() -> RequestError:
    """The error of a request that nobody waits for any more."""
    return RequestError(grpc.StatusCode.CANCELLED, "the client has gone")
