"""The generative model."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from igpt_keras import paper
from igpt_keras.errors import InputError
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.models.label_dropout import check_label_dropout, draw_dropped
from igpt_keras.network.config import ImageGPTConfig, check_class_names
from igpt_keras.network.losses import shares_of_mean
from igpt_keras.network.presets import LABEL_DROPOUT
from igpt_keras.network.quantization import check_not_quantized
from igpt_keras.network.rows import sizes
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

    With `config.num_classes`, an autoregressive model is conditioned on classes: an image begins
    with the start vector of its class, or with that of none. `fit` and `evaluate` take a label
    of each image; `fit` drops each with probability `label_dropout`, so that the model learns
    p(x) as well as p(x | class). The draw depends on the model's seed, the step and the place in
    the global batch only.

    Args:
        config: The sizes.
        objective: "ar" or "bert".
        mask_probability: Probability of each position to be in M (BERT).
        tokenizer: Maps images to tokens and back; saved with the model. None if the model
            is only given tokens.
        label_dropout: Probability, less than 1, that training hides an image's label from a model
            with `config.num_classes` (Ho and Salimans, 2022).
        class_names: The names of these classes, or None for "0", "1", ….
        **kwargs: Arguments of `keras.Model`, such as `dtype` and `name`.

    Call arguments:
        inputs: Images uint8 [B, R, R, 3], tokens int32 [B, n], or `{"tokens": tokens,
            "masked": masked}` with bool [B, n]. With `config.num_classes` also
            `{"tokens": tokens, "labels": labels}`, integers [B]; images are of no class without.
            A bool [B] under the key "dropped" says which labels the model does not see.

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
        label_dropout: float = LABEL_DROPOUT,
        class_names: Sequence[str] | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            config, objective, mask_probability=mask_probability, tokenizer=tokenizer, **kwargs
        )
        self.label_dropout = check_label_dropout(label_dropout)
        self.class_names = None
        if config.num_classes is not None:
            self.class_names = check_class_names(class_names, config.num_classes)
            self.label_seed = keras.random.SeedGenerator()
        elif class_names is not None:
            raise InputError("class_names needs config.num_classes, which is None")
        self._build_layers()

    def call(self, inputs: Any, training: bool | None = None) -> Tensor:
        if training and isinstance(inputs, dict):
            size = sizes(inputs["tokens"])[0]
            inputs = self.draw_inputs(inputs, 0, size, size)
        inputs = self._with_mask(inputs)
        logits = self.token_head(self.backbone(inputs))
        self.add_loss(shares_of_mean(self._nll(inputs, logits)))
        return logits

    def with_classes(self, num_classes: int, **settings: Any) -> "ImageGPT":
        """Returns a class-conditional copy of this model, to be trained further with labels.

        Every class begins with the start vector of this model, so that the copy is this model
        until it is trained.

        Args:
            num_classes: Number of classes, K.
            **settings: Other arguments of the class: `label_dropout`, `class_names`, `dtype`.

        Raises:
            InputError: This is a BERT model, has classes or is quantized, or a setting cannot be
                used.

        Example:
            ```python
            model = igpt_keras.ImageGPT.from_preset("my-model").with_classes(10)
            model.compile()
            model.fit(images, labels)
            ```
        """
        if self.config.num_classes is not None:
            raise InputError(f"the model has classes already, {self.config.num_classes}")
        check_not_quantized(self, "a class-conditional copy")
        copy = ImageGPT(
            dataclasses.replace(self.config, num_classes=num_classes),
            self.objective,
            mask_probability=self.mask_probability,
            tokenizer=self.tokenizer,
            **{"dtype": self.dtype_policy, **settings},
        )
        of_copy = copy.backbone.weights_without_classes()
        for new, weight in zip(of_copy, self.backbone.weights, strict=True):
            new.assign(weight)
        copy.token_head.set_weights(self.token_head.get_weights())
        embedding = copy.backbone.embedding
        start = embedding.start_vectors()[0]
        embedding.class_embedding.assign(ops.repeat(start, num_classes, axis=0))
        return copy

    def draw_inputs(self, inputs: Any, start: Any, size: Any, total: Any) -> Any:
        """Returns training inputs with labels dropped, unless that was drawn before.

        Args:
            inputs: A part of a batch.
            start: The place of its first image in the batch, an integer or int32 scalar.
            size: Images of the part.
            total: Images of the batch.
        """
        if not isinstance(inputs, dict) or "labels" not in inputs or "dropped" in inputs:
            return inputs
        dropped = draw_dropped(total, self.label_dropout, self.label_seed)
        return {**inputs, "dropped": dropped[start : start + size]}

    def per_image(self, inputs: Any) -> dict[str, Tensor]:
        """Returns `{"nll": float32 [B]}`, the generative loss of each image in nats per token."""
        inputs = self._with_mask(inputs)
        return {"nll": self._nll(inputs, self.token_head(self.backbone(inputs)))}

    def compute_output_shape(self, tokens_shape: Shape) -> Shape:
        return (*tokens_shape, self.config.vocabulary_size)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["generative_weight"]
        if self.class_names is not None:
            names = list(self.class_names)
            config |= {"label_dropout": self.label_dropout, "class_names": names}
        return config
