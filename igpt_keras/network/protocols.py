"""What sampling, saving and conversion need of a model, whose classes lie above them."""

from typing import TYPE_CHECKING, Protocol

import keras

from igpt_keras.network.backbone import ImageGPTBackbone
from igpt_keras.network.config import ImageGPTConfig

if TYPE_CHECKING:
    from igpt_keras.tokenizers.base import ImageTokenizer


class TokenModel(Protocol):
    """A model from tokens int32 [B, n] to logits float32 [B, n, V].

    Attributes:
        config: the sizes.
        objective: "ar" or "bert".
        backbone: tokens to the normalized final states.
        token_head: these states to logits; missing where `generative_weight` is 0.
        tokenizer: images to tokens and back, or None.
        generative_weight: factor of the generative loss.
    """

    config: ImageGPTConfig
    backbone: ImageGPTBackbone
    token_head: keras.layers.Dense
    generative_weight: float

    @property
    def objective(self) -> str: ...

    @property
    def tokenizer(self) -> "ImageTokenizer | None": ...
