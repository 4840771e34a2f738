"""Image GPT (Generative Pretraining from Pixels) in Keras."""

from igpt_keras.config import ImageGPTConfig
from igpt_keras.errors import InputError
from igpt_keras.models import ImageGPT, ImageGPTClassifier
from igpt_keras.palette import ColorPalette

__version__ = "0.1.0"
