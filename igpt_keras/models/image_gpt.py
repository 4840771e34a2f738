"""The generative model."""

import keras

from igpt_keras import paper
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.network.losses import mean_over_images
from igpt_keras.tokenizers.base import ImageTokenizer


@keras.saving.register_keras_serializable("igpt_keras")
class ImageGPT(GenerativeModel):
    """The generative model: tokens int32 [B, n] to logits float32 [B, n, V].

    With `objective="ar"`, logits at position i are for token i given those before
    it. With `"bert"`, for token i given the tokens outside the mask M. The loss is
    in nats per pixel, the metric `bits_per_pixel` beside it.

    >>> model = ImageGPT(ImageGPTConfig(8, 16, 64, 4, 4))
    >>> model.compile(keras.optimizers.Adam(1e-3, beta_2=0.95))
    >>> model.fit(tokens, epochs=10, batch_size=64)

    Args: as `GenerativeModel`, without `generative_weight`.
    """

    def __init__(
        self,
        config: ImageGPTConfig,
        objective: str = "ar",
        *,
        mask_probability: float = paper.MASK_PROBABILITY,
        tokenizer: ImageTokenizer | None = None,
        **kwargs,
    ):
        super().__init__(
            config, objective, mask_probability=mask_probability, tokenizer=tokenizer, **kwargs
        )
        self.build((None, config.sequence_length))

    def call(self, inputs):
        inputs = self._with_mask(inputs)
        logits = self.token_head(self.backbone(inputs))
        self.add_loss(mean_over_images(self._nll(inputs, logits)))
        return logits

    def per_image(self, inputs) -> dict:
        """`nats`, the generative loss of each image: float32 [B]."""
        inputs = self._with_mask(inputs)
        return {"nll": self._nll(inputs, self.token_head(self.backbone(inputs)))}

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape, self.config.vocabulary_size)

    def get_config(self):
        config = super().get_config()
        del config["generative_weight"]
        return config
