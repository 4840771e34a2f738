"""The RGB tokenizer: every channel of every pixel is a token."""

from typing import Any, ClassVar

import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.tensors import Tensor
from igpt_keras.tokenizers.base import ImageTokenizer, register_tokenizer


@register_tokenizer("rgb")
class RGBTokenizer(ImageTokenizer):
    """A tokenizer whose tokens are the channel values of an image, without loss.

    An image is 3 · R² tokens in 0…255, row by row; the red, green and blue value of a pixel
    follow each other. The literature models images in this way (PixelRNN, the Sparse
    Transformer), so the bits per dimension of a model with this tokenizer are comparable with
    those it reports. A palette needs a third of the tokens.

    The token grid has a row for each row of pixels and three columns for each column of pixels,
    so the default stride of sparse attention is 3 · R: a column layer sees the same channel of
    the pixels above.

    Args:
        image_size: Side R of the images in pixels.

    Raises:
        InputError: `image_size` is not a positive integer.

    Example:
        >>> tokenizer = RGBTokenizer(image_size=32)
        >>> tokenizer.grid
        (32, 96)
        >>> tokenizer.tokenize(images).shape  # uint8 [64, 32, 32, 3]
        (64, 3072)
        >>> config = ImageGPTConfig(
        ...     image_size=32, vocabulary_size=256, grid=tokenizer.grid, hidden_dim=256,
        ...     num_layers=12, num_heads=8, attention="strided", axial_positions=True,
        ... )
        >>> model = ImageGPT(config, tokenizer=tokenizer)
    """

    image_size: int  # pyright: ignore[reportIncompatibleVariableOverride]
    requires_fit: ClassVar[bool] = False
    lossless: ClassVar[bool] = True

    def __init__(self, image_size: int):
        if not isinstance(image_size, int | np.integer) or image_size < 1:
            raise InputError(f"image_size must be a positive integer, got {image_size!r}")
        self.image_size = int(image_size)

    @property
    def vocabulary_size(self) -> int:
        """Number of values of a channel, 256."""
        return 256

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of an image's tokens: (R, 3 · R)."""
        return (self.image_size, 3 * self.image_size)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-serializable."""
        return {"image_size": self.image_size}

    def final_rows(self, token_rows: int) -> int:
        """Returns `token_rows`: a row of tokens is one of pixels."""
        return token_rows

    def _tokenize(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.int32)

    def _detokenize(self, tokens: np.ndarray) -> np.ndarray:
        return tokens.astype(np.uint8).reshape(-1, self.image_size, self.image_size, 3)

    def tokenize_in_graph(self, images: Tensor) -> Tensor:
        """Returns the tokens of a TensorFlow tensor: uint8 [B, R, R, 3] to int32 [B, n]."""
        import tensorflow as tf

        return tf.cast(tf.reshape(images, [-1, 3 * self.image_size**2]), tf.int32)

    def detokenize_in_graph(self, tokens: Tensor) -> Tensor:
        """Returns the images of a TensorFlow tensor: int32 [B, n] to uint8 [B, R, R, 3]."""
        import tensorflow as tf

        images = tf.reshape(tokens, [-1, self.image_size, self.image_size, 3])
        return tf.cast(images, tf.uint8)
