"""The generative model."""

from typing import Any

from igpt_keras import paper
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.network.losses import shares_of_mean
from igpt_keras.saving import register_model
from igpt_keras.tensors import Shape, Tensor
from igpt_keras.tokenizers.base import ImageTokenizer


@register_model
class ImageGPT(GenerativeModel):
    """The generative model: tokens to logits float32 [B, n, V].

    With `objective="ar"`, the logits at position i are for token i given those before it.
    With "bert", they are for token i given the tokens outside the mask M. The loss is in nats
    per token. The metric `bits_per_pixel` is that of all tokens in bits, divided by the number of
    pixels: a likelihood of pixels only if tokens and pixels determine each other.

    Args:
        config: The sizes.
        objective: "ar" or "bert".
        mask_probability: Probability of each position to be in M (BERT).
        tokenizer: Maps images to tokens and back; saved with the model. None if the model
            is only given tokens.
        **kwargs: Arguments of `keras.Model`, such as `dtype` and `name`.

    Call arguments:
        inputs: Images uint8 [B, R, R, 3], tokens int32 [B, n], or `{"tokens": tokens,
            "masked": masked}` with bool [B, n].

    Example:
        ```python
        palette = igpt_keras.ColorPalette.fit(images, num_colors=512)
        config = igpt_keras.ImageGPTConfig(
            image_size=32, vocabulary_size=512, hidden_dim=256, num_layers=12, num_heads=8
        )
        model = igpt_keras.ImageGPT(config, tokenizer=palette)
        model.compile()
        model.fit(images, epochs=10, batch_size=64)
        ```
    """

    def __init__(
        self,
        config: ImageGPTConfig,
        objective: str = "ar",
        *,
        mask_probability: float = paper.MASK_PROBABILITY,
        tokenizer: ImageTokenizer | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            config, objective, mask_probability=mask_probability, tokenizer=tokenizer, **kwargs
        )
        self.build((None, config.sequence_length))

    def call(self, inputs: Any) -> Tensor:
        inputs = self._with_mask(inputs)
        logits = self.token_head(self.backbone(inputs))
        self.add_loss(shares_of_mean(self._nll(inputs, logits)))
        return logits

    def per_image(self, inputs: Any) -> dict[str, Tensor]:
        """Returns `{"nll": float32 [B]}`, the generative loss of each image in nats per token."""
        inputs = self._with_mask(inputs)
        return {"nll": self._nll(inputs, self.token_head(self.backbone(inputs)))}

    def compute_output_shape(self, tokens_shape: Shape) -> Shape:
        return (*tokens_shape, self.config.vocabulary_size)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["generative_weight"]
        return config
