"""The Keras models, and how stored ones are loaded."""

from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.saving import load_preset as load

__all__ = ["ImageGPT", "ImageGPTClassifier", "load"]
