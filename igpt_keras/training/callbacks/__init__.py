"""Callbacks of Keras, one a file."""
