"""Serving a model over gRPC: export to TensorFlow Serving's layout, a server, a client."""
