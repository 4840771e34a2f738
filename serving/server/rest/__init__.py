"""TensorFlow Serving's REST API, on the event loop that answers gRPC.

JSON becomes the messages that gRPC carries, and the same services answer them. Routes, formats,
refusals and HTTP statuses are TensorFlow Serving's (http_rest_api_handler.cc,
http_rest_api_util.cc, http_server.cc and json_tensor.cc).
"""
