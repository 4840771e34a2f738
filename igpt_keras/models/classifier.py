"""The classifier for fine-tuning (paper, section 2.3)."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from igpt_keras import paper
from igpt_keras.errors import InputError
from igpt_keras.models.generative_model import GenerativeModel, pool
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.models.partial_training import PartialTraining
from igpt_keras.network.config import ImageGPTConfig, check_class_names, integer_of_at_least
from igpt_keras.network.losses import shares_of_mean
from igpt_keras.network.quantization import check_not_quantized
from igpt_keras.saving import load_preset, model_classes, read_preset, register_model
from igpt_keras.tensors import Shape, Tensor


@register_model
class ImageGPTClassifier(PartialTraining, GenerativeModel):
    """The fine-tuned network (paper, section 2.3): tokens to class logits float32 [B, C].

    The features f^`layer` go through a projection that starts at zero. The loss is L_CLF +
    `generative_weight` · L_GEN; L_GEN is always that of the final states. With weight 0 there
    is no token head, and what comes after `layer` is neither run nor trained.

    Args:
        config: The sizes.
        num_classes: Number of classes, C.
        objective: "ar" or "bert", that of L_GEN and of the backbone.
        layer: l, whose features the class head reads, 0…L; None for L, the final states.
        shift_right: Whether an "ar" network reads the start vector and all tokens but the
            last, as in pre-training and in the paper. False: it reads the n tokens, as
            Transformers' classifier does; needs `generative_weight=0`.
        class_names: C names, or None for "0", "1", ….
        **kwargs: As for `GenerativeModel`: `generative_weight` (the factor of L_GEN, 1 in the
            paper), `tokenizer`, `mask_probability`, `dtype`.

    Call arguments:
        inputs: Images uint8 [B, R, R, 3], tokens int32 [B, n], or `{"tokens": tokens,
            "masked": masked}` with bool [B, n].

    Example:
        ```python
        classifier = igpt_keras.ImageGPTClassifier.from_preset(model, num_classes=10)
        classifier.compile()
        classifier.fit(images, labels, epochs=5)
        ```
    """

    def __init__(
        self,
        config: ImageGPTConfig,
        num_classes: int,
        objective: str = "ar",
        *,
        layer: int | None = None,
        shift_right: bool = True,
        class_names: Sequence[str] | np.ndarray | None = None,
        **kwargs: Any,
    ):
        if config.num_classes is not None:
            raise InputError(
                "config.num_classes must be None: a classifier is not conditioned on the class, "
                f"got {config.num_classes}"
            )
        super().__init__(config, objective, shift_right=shift_right, **kwargs)
        self.layer = config.num_layers if layer is None else self.check_layer(layer)
        self.num_classes = integer_of_at_least(2, "num_classes", num_classes)
        self.class_names = check_class_names(class_names, self.num_classes)
        self.class_head = keras.layers.Dense(
            self.num_classes,
            use_bias=False,
            kernel_initializer="zeros",
            name="class_head",
            dtype="float32",
        )
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self._reports_accuracy = False
        self._build_layers()

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike | ImageGPT,
        num_classes: int | None = None,
        *,
        load_weights: bool = True,
        **settings: Any,
    ) -> "ImageGPTClassifier":
        """Loads a classifier, or starts one from a pre-trained generative model.

        Args:
            preset: As for `ImageGPT.from_preset`, or an `ImageGPT`, which stays as it is. Of a
                class-conditional one, the classifier gets what it does without a class.
            num_classes: Number of classes C. Needed for a generative preset, whose backbone
                and token head the classifier starts from.
            load_weights: Whether to load the weights; False leaves them random.
            **settings: Other arguments of the class, such as `layer`, `generative_weight`,
                `class_names` and `dtype`.

        Raises:
            FileNotFoundError: There is nothing at `preset`.
            InputError: The preset cannot be used, or does not fit `num_classes`.

        Example:
            ```python
            classifier = ImageGPTClassifier.from_preset("my-model", num_classes=10)
            ```
        """
        if isinstance(preset, ImageGPT):
            return cls._from_model(preset, num_classes, **settings)
        stored = read_preset(preset, load_weights=load_weights)
        found = model_classes.get(stored.class_name)
        if not issubclass(found, cls):
            model = load_preset(preset, ImageGPT, load_weights=load_weights)
            return cls._from_model(model, num_classes, **settings)
        stored_classes = stored.settings.get("num_classes")
        if num_classes not in (None, stored_classes):
            raise InputError(
                f"{preset} is a classifier of {stored_classes} classes, "
                f"got num_classes={num_classes}; start from a generative preset"
            )
        return stored.build(found, load_weights, **settings)

    @classmethod
    def _from_model(cls, model: ImageGPT, num_classes: int | None, **settings: Any):
        if num_classes is None:
            raise InputError("num_classes is missing: a generative model has no classes yet")
        check_not_quantized(model, "a new classifier")
        classifier = cls(
            dataclasses.replace(model.config, num_classes=None),
            num_classes,
            model.objective,
            mask_probability=model.mask_probability,
            tokenizer=model.tokenizer,
            **{"dtype": model.dtype_policy, **settings},
        )
        pretrained = model.backbone.weights_without_classes()
        classifier.backbone.set_weights([keras.ops.convert_to_numpy(w) for w in pretrained])
        if classifier.generative_weight > 0:
            classifier.token_head.set_weights(model.token_head.get_weights())
        return classifier

    def build(self, tokens_shape: Shape) -> None:
        super().build(tokens_shape)
        self.class_head.build((None, self.config.hidden_dim))
        if self.generative_weight == 0 and self.layer < self.config.num_layers:
            self._freeze_after_layer()

    def _freeze_after_layer(self):
        # Keras warns of trainable weights that get no gradient.
        entered, *later = self.backbone.blocks[self.layer :]
        unused = [entered.attention, entered.mlp_norm, entered.mlp, *later]
        for layer in (*unused, self.backbone.final_norm):
            layer.trainable = False

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "auto",
        loss: Any = "auto",
        metrics: Any = "auto",
        **kwargs: Any,
    ) -> None:
        """Configures training, as `GenerativeModel.compile`.

        Args:
            optimizer: "auto" is the paper's Adam (0.9, 0.95) at a tenth of the learning rate
                found for pre-training the nearest published model (section 4.5).
            loss: "auto" is L_CLF from integer labels.
            metrics: "auto" is the accuracy.
            **kwargs: As for `GenerativeModel.compile`.
        """
        if loss == "auto":
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._reports_accuracy = metrics == "auto"
        metrics = None if self._reports_accuracy else metrics
        super().compile(optimizer, loss=loss, metrics=metrics, **kwargs)

    def _default_learning_rate(self) -> float:
        return super()._default_learning_rate() / paper.FINETUNING_RATE_DIVISOR

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()
        if config and self._reports_accuracy:
            config["metrics"] = "auto"
        return config

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        hidden = () if self._reports_accuracy else (self.accuracy,)
        return [metric for metric in super().metrics if metric not in hidden]

    def compute_metrics(
        self, x: Any, y: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> dict[str, Any]:
        if self._reports_accuracy:
            self.accuracy.update_state(y, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def call(self, inputs: Any) -> Tensor:
        outputs = self.per_image(inputs)
        if self.generative_weight > 0:
            self.add_loss(self.generative_weight * shares_of_mean(outputs["nll"]))
        return outputs["class_logits"]

    def per_image(self, inputs: Any) -> dict[str, Tensor]:
        """Returns `class_logits`, float32 [B, C]; with a token head also `nll`, float32 [B].

        `nll` is the generative loss of each image in nats per token.
        """
        inputs = self._with_mask(inputs)
        if self.generative_weight == 0:
            states = self.backbone.normalized_states(inputs, self.layer)
            return {"class_logits": self.class_head(pool(states[self.layer]))}
        states = self.backbone.normalized_states(inputs)
        return {
            "class_logits": self.class_head(pool(states[self.layer])),
            "nll": self._nll(inputs, self.token_head(states[-1])),
        }

    def compute_output_shape(self, tokens_shape: Shape) -> Shape:
        return (tokens_shape[0], self.num_classes)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "layer": self.layer,
            "shift_right": self.backbone.shift_right,
            "class_names": list(self.class_names),
        }
