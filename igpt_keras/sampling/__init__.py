"""Completing images and sampling new ones, token by token.

`requests` and `samplers` need NumPy only; the other modules need TensorFlow.
"""
