"""Completing images and sampling new ones, token by token.

The modules are written with `keras.ops`, for TensorFlow and JAX; `backend` holds what differs.
`in_graph` is for TensorFlow only. `requests` and `samplers` need NumPy only.
"""
