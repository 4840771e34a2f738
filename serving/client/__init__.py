"""A client for served models: of this package's server, or of TensorFlow Serving."""

from serving.client.clients import AsyncClient, Client
from serving.client.connection import TLS, RetryPolicy
from serving.client.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MissingSignature,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServingError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from serving.client.queries import Classifications, Scores, VersionStatus

__all__ = [
    "TLS",
    "AsyncClient",
    "Cancelled",
    "Classifications",
    "Client",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "MissingSignature",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "RetryPolicy",
    "Scores",
    "ServingError",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "VersionStatus",
]
