"""A server for exported models that answers as TensorFlow Serving does.

It speaks TensorFlow Serving's gRPC API: `PredictionService` (Predict, Classify,
GetModelMetadata) and `ModelService` (GetModelStatus), with gRPC's own health checks and
reflection. Status codes and messages are those of TensorFlow Serving, so a client need not
know which of the two it talks to.
"""

from serving.server.configuration import BatchingParameters
from serving.server.server import Server

__all__ = ["BatchingParameters", "Server"]
