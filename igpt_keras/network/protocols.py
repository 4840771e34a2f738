"""What sampling, saving and conversion need of a model, whose classes lie above them."""

from typing import TYPE_CHECKING, Any, Protocol

import keras

from igpt_keras.network.backbone import ImageGPTBackbone
from igpt_keras.network.config import ImageGPTConfig

if TYPE_CHECKING:
    from igpt_keras.tokenizers.base import ImageTokenizer


class TokenModel(Protocol):
    """A model from tokens int32 [B, n] to logits float32 [B, n, V].

    Attributes:
        weights: Keras variables, all that it computes with.
        config: The sizes.
        objective: "ar" or "bert".
        backbone: Maps tokens to the normalized final states.
        token_head: Maps these states to logits; missing if `generative_weight` is 0.
        tokenizer: Maps images to tokens and back; may be None.
        generative_weight: Factor of the generative loss.
    """

    weights: list[Any]
    config: ImageGPTConfig
    backbone: ImageGPTBackbone
    token_head: keras.layers.Dense
    generative_weight: float

    @property
    def objective(self) -> str: ...

    @property
    def tokenizer(self) -> "ImageTokenizer | None": ...
