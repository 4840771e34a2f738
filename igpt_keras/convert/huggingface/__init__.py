"""Models of Hugging Face Transformers, read and written."""

from igpt_keras.convert.huggingface.layout import CONFIG_FILE
from igpt_keras.convert.huggingface.reading import read_huggingface
from igpt_keras.convert.huggingface.writing import image_processor_tokens, save_huggingface

__all__ = ["CONFIG_FILE", "image_processor_tokens", "read_huggingface", "save_huggingface"]
