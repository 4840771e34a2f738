"""What Image GPT and its classifier share: Keras models on one backbone."""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalOperand=false

import contextlib
import functools
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import keras
import numpy as np
from keras import ops

from igpt_keras import paper
from igpt_keras.errors import InputError
from igpt_keras.models.inputs import bind, to_tokens
from igpt_keras.models.keras_internals import first_added_loss, replaced_losses
from igpt_keras.models.keras_methods import KerasMethods
from igpt_keras.models.label_dropout import seen_labels
from igpt_keras.models.masking import draw_fresh_mask
from igpt_keras.models.task import Task
from igpt_keras.models.training_data import check_labels_of_loss
from igpt_keras.network.backbone import ImageGPTBackbone
from igpt_keras.network.config import ImageGPTConfig, integer_of_at_least, is_integer
from igpt_keras.network.losses import autoregressive_nll, masked_nll
from igpt_keras.network.quantization import quantize_layers, quantized_settings, split_policies
from igpt_keras.sampling.graphs import forget_graphs
from igpt_keras.tensors import Shape, Tensor
from igpt_keras.tokenizers import load_tokenizer
from igpt_keras.tokenizers.base import ImageTokenizer, deserialize, serialize

if TYPE_CHECKING or keras.backend.backend() == "tensorflow":
    from igpt_keras.models.distributed import DistributedTrainer as Trainer
else:

    class Trainer(keras.Model):
        """Other backends distribute by themselves (`keras.distribution`)."""

        distribute_scope = contextlib.nullcontext


Model = TypeVar("Model", bound="GenerativeModel")


class GenerativeModel(KerasMethods, Trainer, Task):
    """Base of `ImageGPT` and `ImageGPTClassifier`: backbone, mask, generative loss, features.

    `fit`, `evaluate`, `predict` and calls take images uint8 [B, R, R, 3], tokens int32
    [B, n], or `{"tokens": tokens, "masked": masked}`, whose bool [B, n] mask M says which
    tokens a BERT model does not see. Without it, a BERT model draws M anew at every call, in
    training and in evaluation (paper, sections 2.1 and 4.6). `fit`, `evaluate` and `predict`
    also take a `tf.data.Dataset` of batches of these. A model with `config.num_classes` takes
    `{"tokens": tokens, "labels": labels}` as well; see `ImageGPT`.

    `call` adds the generative loss (`add_loss`), so `compile` needs none. It is a vector [B],
    what each image adds to the mean, for `sample_weight` to multiply.

    Args:
        config: The sizes.
        objective: "ar" or "bert".
        generative_weight: Factor of the generative loss; with 0 there is no token head.
        mask_probability: Probability of each position to be in M (BERT).
        shift_right: As for `ImageGPTBackbone`; False only with "ar" and a `generative_weight`
            of 0.
        tokenizer: Maps images to tokens and back; saved with the model. None if the model
            is only given tokens.
        dtype: The dtype policy of all layers but the heads, which are float32; a `DTypePolicyMap`
            for a model that is quantized when it is made (see `network.quantization`).
        quantization_config: Keras' configuration of quantized layers; None for the default.
        **kwargs: Arguments of `keras.Model`, such as `name`.
    """

    def __init__(
        self,
        config: ImageGPTConfig,
        objective: str = "ar",
        *,
        generative_weight: float = paper.GENERATIVE_WEIGHT,
        mask_probability: float = paper.MASK_PROBABILITY,
        shift_right: bool = True,
        tokenizer: ImageTokenizer | None = None,
        dtype: Any = None,
        quantization_config: Any = None,
        **kwargs: Any,
    ):
        dtype, quantized = split_policies(dtype)
        super().__init__(dtype=dtype, **kwargs)
        self._quantize_layers = functools.partial(
            quantize_layers, policies=quantized, config=quantization_config
        )
        if not 0 < mask_probability < 1:
            raise InputError(
                f"mask_probability must lie between 0 and 1, both excluded, got {mask_probability}"
            )
        if not (generative_weight >= 0 and math.isfinite(generative_weight)):
            raise InputError(f"generative_weight must be finite and >= 0, got {generative_weight}")
        self.config = config
        self.generative_weight = float(generative_weight)
        self.mask_probability = float(mask_probability)
        self.tokenizer = tokenizer
        self.backbone = ImageGPTBackbone(
            config, objective, shift_right, name="backbone", dtype=self.dtype_policy
        )
        if not shift_right and (objective == "bert" or generative_weight > 0):
            raise InputError(
                'shift_right=False needs objective="ar" and generative_weight=0: a position that '
                f"reads its own token cannot predict it; got {objective=} and {generative_weight=}"
            )
        if generative_weight > 0:
            self.token_head = keras.layers.Dense(
                config.vocabulary_size,
                use_bias=False,
                kernel_initializer="zeros",
                name="token_head",
                dtype="float32",
            )
            self.bits_per_pixel = keras.metrics.Mean(name="bits_per_pixel")
        if objective == "bert":
            self.mask_seed = keras.random.SeedGenerator()

    @property
    def objective(self) -> str:
        """The objective, "ar" or "bert"."""
        return self.backbone.objective

    @property
    def tokenizer(self) -> ImageTokenizer | None:
        """The tokenizer, bound to the model's image size; None if it has none."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: ImageTokenizer | None) -> None:
        if tokenizer is not None:
            tokenizer = bind(tokenizer, self.config)
        self._tokenizer = tokenizer

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("tokenizer", "_tokenizer"):
            # Set past Keras, which would count the weights of a tokenizer among the model's.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def build(self, tokens_shape: Shape) -> None:
        self.backbone.build(tokens_shape)
        if self.generative_weight > 0:
            self.token_head.build((*tokens_shape, self.config.hidden_dim))
        self.built = True

    def _build_layers(self) -> None:
        """Builds the model when it is made, with the layers quantized that are to be."""
        self.build((None, self.config.sequence_length))
        self._quantize_layers(self)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Quantizes all projections and heads, as `keras.Model.quantize`.

        Files and folders keep the quantized weights of the modes "int8" and "int4".

        Args:
            *args: As for Keras, such as the mode.
            **kwargs: As for Keras, such as `config` and `filters`.

        Raises:
            InputError: The model has adapters (LoRA), which have to be merged first.

        Example:
            >>> model.quantize("int8")
            >>> model.save_to_preset("my-model-int8")
        """
        if any(each.lora_enabled for each in self.backbone.projections().values()):
            raise InputError("the model has adapters; merge_lora has to add them to the weights")
        with warnings.catch_warnings():
            # Keras warns of norms and embeddings, which it never quantizes.
            warnings.filterwarnings("ignore", "Layer .* does not have a `quantize` method")
            super().quantize(*args, **kwargs)
        forget_graphs(self)

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "auto",
        *args: Any,
        remat: bool = False,
        micro_batches: int = 1,
        **kwargs: Any,
    ) -> None:
        """Configures training, as `keras.Model.compile`, with two more arguments.

        Args:
            optimizer: "auto" is the paper's Adam (0.9, 0.95) at the learning rate found for
                the nearest published model (appendix A.1, table 5).
            *args: As for Keras.
            remat: Whether to recompute each block's activations for the gradient: less memory
                for a third more computation.
            micro_batches: Number of parts that a device's images are cut into. They go
                through the model in turn before the weights change once: less memory, the
                same result. TensorFlow only.
            **kwargs: As for Keras.

        Raises:
            InputError: `micro_batches` cannot be used.

        Example:
            >>> model.compile()
            >>> model.compile(keras.optimizers.Adam(1e-3), remat=True, micro_batches=4)
        """
        micro_batches = integer_of_at_least(1, "micro_batches", micro_batches)
        if micro_batches > 1 and keras.backend.backend() != "tensorflow":
            raise InputError(
                f"micro_batches={micro_batches} needs Keras' TensorFlow backend, "
                f"got {keras.backend.backend()}; pass smaller batches to fit"
            )
        self.micro_batches = micro_batches
        self.backbone.remat = remat
        with self.distribute_scope():
            if optimizer == "auto":
                optimizer = keras.optimizers.Adam(
                    self._default_learning_rate(),
                    beta_1=paper.ADAM_BETA_1,
                    beta_2=paper.ADAM_BETA_2,
                )
            super().compile(optimizer, *args, **kwargs)

    def _default_learning_rate(self) -> float:
        config = self.config
        return paper.learning_rate(config.hidden_dim, config.image_size, self.objective)

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()
        if config:
            config |= {"remat": self.backbone.remat, "micro_batches": self.micro_batches}
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def check_inputs(self, inputs: Any) -> None:
        """Raises `InputError` for inputs that the model cannot take."""
        to_tokens(self, inputs)

    def _with_mask(self, inputs) -> dict:
        """Returns int32 tokens in a dictionary, for BERT with the given or a fresh mask M."""
        if not isinstance(inputs, dict):
            inputs = {"tokens": inputs}
        # Tokens in a cache on disk are uint16, which not every op takes.
        inputs = {**inputs, "tokens": ops.cast(inputs["tokens"], "int32")}
        if self.objective == "ar":
            return {"tokens": inputs["tokens"], **seen_labels(inputs)}
        if "masked" in inputs:
            return {**inputs, "masked": ops.cast(inputs["masked"], "bool")}
        shape: Any = ops.shape(inputs["tokens"])
        masked = draw_fresh_mask(shape, self.mask_probability, self.mask_seed)
        return {**inputs, "masked": masked}

    def _nll(self, inputs, logits):
        """Returns the generative loss of each image, float32 [B]."""
        if self.objective == "ar":
            return autoregressive_nll(inputs["tokens"], logits)
        return masked_nll(inputs["tokens"], logits, inputs["masked"])

    def compute_loss(
        self,
        x: Any = None,
        y: Tensor | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        check_labels_of_loss(self, y)
        # Keras also calls this symbolically, to build metrics, when `call` has added no loss.
        added = first_added_loss(self) if self.generative_weight > 0 else None
        if added is None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        tokens_per_pixel = self.config.sequence_length / self.config.image_size**2
        bits = ops.sum(added) * tokens_per_pixel / (self.generative_weight * math.log(2))
        size = ops.cast(ops.shape(y_pred)[0], "float32")
        self.bits_per_pixel.update_state(bits, sample_weight=size)
        if sample_weight is None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        weights = ops.cast(ops.reshape(sample_weight, (-1,)), added.dtype)
        with replaced_losses(self, [weights * added, *self.losses[1:]]):
            return super().compute_loss(x, y, y_pred, sample_weight, training)

    def features(self, inputs: Any, layer: int, *, batch_size: int = 32) -> np.ndarray:
        """Returns the features f^l, the mean of n^l over the sequence (paper, section 2.4).

        Args:
            inputs: Images uint8 [N, R, R, 3], tokens int32 [N, n], or tokens with masks.
            layer: l, from 0 (the embeddings) to `num_layers` (the final states).
            batch_size: Images in a forward pass.

        Returns:
            float32 [N, d].

        Raises:
            InputError: `layer` is outside 0…L, or the inputs cannot be used.

        Example:
            >>> model.features(images, layer=6).shape
            (1000, 512)
        """
        self.check_layer(layer)
        inputs = to_tokens(self, inputs)
        num_images = len(inputs["tokens"] if isinstance(inputs, dict) else inputs)
        batches = [
            keras.tree.map_structure(lambda x, i=i: x[i : i + batch_size], inputs)
            for i in range(0, max(num_images, 1), batch_size)
        ]
        features = [np.asarray(self.layer_features(batch, layer)) for batch in batches]
        return np.concatenate(features)

    def layer_features(self, tokens: Any, layer: int) -> Tensor:
        """Returns `features` of one batch of tokens as a tensor, for use in a graph."""
        return ops.mean(self.layer_states(tokens, [layer]), axis=1)

    def layer_states(self, tokens: Any, layers: Sequence[int]) -> Tensor:
        """Returns the states n^l of some layers at every position, for use in a graph.

        Args:
            tokens: As `inputs` of `features`, of one batch.
            layers: l, from 0 to `num_layers`, one or several.

        Returns:
            float32 [B, n, k · d], the layers side by side.

        Raises:
            InputError: A layer is outside 0…L, or the inputs cannot be used.
        """
        last = max(self.check_layer(layer) for layer in layers)
        tokens = self._with_mask(to_tokens(self, tokens))
        states = self.backbone.normalized_states(tokens, last)
        chosen = [ops.cast(states[layer], "float32") for layer in layers]
        return ops.concatenate(chosen, axis=-1)

    def features_of_all_layers(self, tokens: Any) -> Tensor:
        """Returns f^0 … f^L from one pass, with one mask M: a tensor, float32 [B, L + 1, d]."""
        tokens = self._with_mask(to_tokens(self, tokens))
        return ops.stack([pool(n) for n in self.backbone.normalized_states(tokens)], axis=1)

    def save_assets(self, folder: str) -> None:
        """Writes the tokenizer into a `.keras` file; called by Keras."""
        if self.tokenizer is not None:
            self.tokenizer.save_to_preset(folder)

    def load_assets(self, folder: str) -> None:
        """Reads what `save_assets` wrote: a tokenizer's weights are not in `get_config`."""
        self.tokenizer = load_tokenizer(folder) or self.tokenizer

    def check_layer(self, layer: int) -> int:
        """Returns `layer`; raises `InputError` if features cannot be taken from it."""
        if not (is_integer(layer) and 0 <= layer <= self.config.num_layers):
            raise InputError(f"layer must lie in 0…{self.config.num_layers}, got {layer}")
        return int(layer)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {
            **config,
            **quantized_settings(self, config["dtype"]),
            "config": self.config.to_dict(),
            "objective": self.objective,
            "generative_weight": self.generative_weight,
            "mask_probability": self.mask_probability,
            "tokenizer": serialize(self.tokenizer),
        }

    @classmethod
    def from_config(cls: type[Model], config: dict[str, Any]) -> Model:
        return cls(
            **{
                **config,
                "config": ImageGPTConfig.from_dict(config["config"]),
                "tokenizer": deserialize(config.get("tokenizer")),
            }
        )


def pool(states: Tensor) -> Tensor:
    """Returns the mean over the sequence in float32: [B, n, d] to [B, d]."""
    return ops.mean(ops.cast(states, "float32"), axis=1)
