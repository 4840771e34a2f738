"""A client for served models, on our server or on TensorFlow Serving.

The package imports neither TensorFlow nor Keras.
"""

from serving.client.answers import (
    Classifications,
    PartialCompletions,
    Scores,
    VersionStatus,
)
from serving.client.clients import AsyncClient, Client
from serving.client.connection import TLS, RetryPolicy
from serving.client.errors import MissingSignatureError, ServingError

__all__ = [
    "TLS",
    "AsyncClient",
    "Classifications",
    "Client",
    "MissingSignatureError",
    "PartialCompletions",
    "RetryPolicy",
    "Scores",
    "ServingError",
    "VersionStatus",
]
