"""A server for exported models, for machines without TensorFlow Serving's own binary.

It is meant for development, tests and small installations on CPUs: one process, one `pip
install`, the models of one machine. It speaks TensorFlow Serving's gRPC protocol:
`PredictionService` (Predict, Classify, GetModelMetadata) and `ModelService` (GetModelStatus),
with gRPC's own health checks and reflection, and on another port its REST API. Status codes and
messages are TensorFlow Serving's, so that a client need not know which of the two answers.

Its scope is frozen. It will never serve models on several machines, schedule accelerators, fetch
models from remote storage, reload its configuration on request, or answer Regress,
MultiInference and SessionRun. TensorFlow Serving does, from the same folders and files.
"""

from serving.server.configuration import BatchingParameters
from serving.server.server import Server

__all__ = ["BatchingParameters", "Server"]
