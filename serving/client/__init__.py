"""A client for served models: of this package's server, or of TensorFlow Serving."""

from serving.client.clients import AsyncClient, Client
from serving.client.connection import TLS, RetryPolicy
from serving.client.errors import MissingSignature, ServingError
from serving.client.queries import Classifications, Scores, VersionStatus

__all__ = [
    "TLS",
    "AsyncClient",
    "Classifications",
    "Client",
    "MissingSignature",
    "RetryPolicy",
    "Scores",
    "ServingError",
    "VersionStatus",
]
