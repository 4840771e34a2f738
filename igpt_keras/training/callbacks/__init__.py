"""Keras callbacks for training, one per module."""
