"""The classifier for fine-tuning (paper, section 2.4)."""

import keras

from igpt_keras.errors import InputError
from igpt_keras.models.generative_model import GenerativeModel, pool
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.network.losses import mean_over_images


@keras.saving.register_keras_serializable("igpt_keras")
class ImageGPTClassifier(GenerativeModel):
    """Fine-tuning (paper, section 2.4): tokens int32 [B, n] to class logits float32 [B, C].

    The features f^`layer` go through a linear map that starts at zero. The loss is
    L_CLF + `generative_weight` · L_GEN; L_GEN is always that of the final states. With
    weight 0 there is no token head, and what comes after `layer` is neither run nor trained.

    Args:
        config: the sizes.
        num_classes: C.
        objective: "ar" or "bert", that of L_GEN and of the backbone.
        layer: l, whose features the class head reads, in 0…L; None for L, the end.
        generative_weight: factor of L_GEN (1 in the published code).
        class_names: C names, or None for "0", "1", ….
        **kwargs: as `GenerativeModel`.
    """

    def __init__(
        self,
        config: ImageGPTConfig,
        num_classes: int,
        objective: str = "ar",
        *,
        layer: int | None = None,
        class_names: list[str] | None = None,
        **kwargs,
    ):
        super().__init__(config, objective, **kwargs)
        self.layer = config.num_layers if layer is None else layer
        self.check_layer(self.layer)
        if num_classes < 2:
            raise InputError(f"num_classes must be at least 2, got {num_classes}")
        self.num_classes = num_classes
        self.class_names = list(class_names or map(str, range(num_classes)))
        if len(self.class_names) != num_classes:
            raise InputError(
                f"class_names must hold num_classes={num_classes} names, "
                f"got {len(self.class_names)}"
            )
        self.class_head = keras.layers.Dense(
            num_classes,
            use_bias=False,
            kernel_initializer="zeros",
            name="class_head",
            dtype="float32",
        )
        self.build((None, config.sequence_length))

    @classmethod
    def from_pretrained(cls, model: ImageGPT, num_classes: int, **kwargs) -> "ImageGPTClassifier":
        """A classifier that starts from the weights of `model`, which stays as it is.

        Args:
            model: the pre-trained model.
            num_classes: C.
            **kwargs: `layer`, `generative_weight`, `class_names`, ….
        """
        classifier = cls(
            model.config,
            num_classes,
            model.objective,
            mask_probability=model.mask_probability,
            tokenizer=model.tokenizer,
            **{"dtype": model.dtype_policy, **kwargs},
        )
        classifier.backbone.set_weights(model.backbone.get_weights())
        if classifier.generative_weight > 0:
            classifier.token_head.set_weights(model.token_head.get_weights())
        return classifier

    def build(self, tokens_shape):
        super().build(tokens_shape)
        self.class_head.build((None, self.config.hidden_dim))
        if self.generative_weight == 0 and self.layer < self.config.num_layers:
            self._freeze_after_layer()

    def _freeze_after_layer(self):
        # These weights are not used; Keras warns of trainable ones without gradient.
        entered, *later = self.backbone.blocks[self.layer :]
        unused = [entered.attention, entered.mlp_norm, entered.mlp, *later]
        for part in (*unused, self.backbone.final_norm):
            part.trainable = False

    def compile(self, optimizer="adam", loss="auto", metrics="auto", **kwargs):
        """As Keras', with L_CLF from integer labels and accuracy unless told otherwise."""
        if loss == "auto":
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        accuracy = ["accuracy"] if metrics == "auto" else metrics
        super().compile(optimizer=optimizer, loss=loss, metrics=accuracy, **kwargs)
        if metrics == "auto":
            # Keras would do so in the first step: too late for a training that goes on within
            # an epoch, whose mean is restored before.
            labels = keras.KerasTensor((None,), "int32")
            with self.distribute_scope():
                self._compile_metrics.build(labels, keras.KerasTensor((None, self.num_classes)))

    def call(self, inputs):
        outputs = self.per_image(inputs)
        if self.generative_weight > 0:
            self.add_loss(self.generative_weight * mean_over_images(outputs["nll"]))
        return outputs["class_logits"]

    def per_image(self, inputs) -> dict:
        """`class_logits`, float32 [B, C]; with a token head also `nats`, as of `ImageGPT`."""
        inputs = self._with_mask(inputs)
        if self.generative_weight == 0:
            states = self.backbone.normalized_states(inputs, self.layer)
            return {"class_logits": self.class_head(pool(states[self.layer]))}
        states = self.backbone.normalized_states(inputs)
        return {
            "class_logits": self.class_head(pool(states[self.layer])),
            "nll": self._nll(inputs, self.token_head(states[-1])),
        }

    def compute_output_shape(self, tokens_shape):
        return (tokens_shape[0], self.num_classes)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "layer": self.layer,
            "class_names": list(self.class_names),
        }
