"""Image GPT and its classifier: Keras models on one backbone.

Both take tokens int32 [B, n] (n = image_size², raster order), or a dictionary
`{"tokens": tokens, "masked": masked}` whose bool [B, n] mask M says which
positions a BERT model does not see. Without it, a BERT model draws M anew at
every call, in training and in evaluation (paper, section 2.2 and appendix).
"""

import contextlib
import math
from functools import partial

import keras
import numpy as np
from keras import ops

import igpt_keras
from igpt_keras.config import ImageGPTConfig, check_objective
from igpt_keras.errors import InputError
from igpt_keras.layers import Block, TokenEmbedding, rms_norm
from igpt_keras.losses import autoregressive_nats, masked_nats, mean_over_images
from igpt_keras.palette import ColorPalette

if keras.backend.backend() == "tensorflow":
    from igpt_keras.distributed import DistributedTrainer as Trainer
else:

    class Trainer:
        """Other backends distribute by themselves (`keras.distribution`)."""

        distribute_scope = contextlib.nullcontext


@keras.saving.register_keras_serializable("igpt_keras")
class ImageGPTBackbone(keras.Model):
    """Embedding, blocks, final norm: tokens to the normalised final states n^L.

    Args:
        config: the sizes.
        objective: "ar" (causal, start vector) or "bert" (neither).

    Attributes:
        remat: whether training keeps of every block its input alone, and runs the block anew
            for the gradient: less memory for a third more computation. Read when training is
            compiled.

    Call arguments: `{"tokens": int32 [B, n]}`, for "bert" also `"masked"`, bool [B, n].
    Returns: [B, n, d] in the compute dtype.
    """

    remat = False

    def __init__(self, config: ImageGPTConfig, objective: str, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.objective = check_objective(objective)
        causal = objective == "ar"
        self.embedding = TokenEmbedding(
            config.vocabulary_size,
            config.sequence_length,
            config.hidden_dim,
            start_vector=causal,
            name="embedding",
            dtype=self.dtype_policy,
        )
        self.blocks = [
            Block(
                config.num_heads,
                causal,
                config.use_bias,
                output_stddev=1 / math.sqrt(config.hidden_dim * config.num_layers),
                name=f"block_{index}",
                dtype=self.dtype_policy,
            )
            for index in range(config.num_layers)
        ]
        self.final_norm = rms_norm("final_norm", self.dtype_policy)

    def build(self, tokens_shape):
        self.embedding.build(tokens_shape)
        states_shape = (*tokens_shape, self.config.hidden_dim)
        for layer in (*self.blocks, self.final_norm):
            layer.build(states_shape)
        self.built = True

    def call(self, inputs):
        h = self.embedding(inputs["tokens"], masked=inputs.get("masked"))
        for block in self.blocks:
            h = self._run(block, h)
        return self.final_norm(h)

    def _run(self, block, h):
        if not self.remat:
            return block(h)
        # A function of its own for every trace: JAX keeps what it has traced by function, the
        # weights of that trace included.
        return keras.remat(partial(block))(h)

    def hidden_states(self, inputs, last=None):
        """h^0 … h^last, each [B, n, d]: the input of every block, and the last output.

        `last` is L unless given; blocks after it are not run.
        """
        states = [self.embedding(inputs["tokens"], masked=inputs.get("masked"))]
        for block in self.blocks[:last]:
            states.append(self._run(block, states[-1]))
        return states

    def normalised_states(self, inputs, last=None):
        """n^0 … n^last, each [B, n, d] (paper, section 2.4): h^l through its block's first norm.

        For l = L it is the final norm. `last` is L unless given; blocks after it are not run.
        """
        norms = [*(block.attention_norm for block in self.blocks), self.final_norm]
        states = self.hidden_states(inputs, last)
        return [norm(h) for norm, h in zip(norms, states, strict=False)]

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape, self.config.hidden_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "config": self.config.to_dict(),
            "objective": self.objective,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "config": ImageGPTConfig(**config["config"])})


class GenerativeModel(Trainer, keras.Model):
    """What `ImageGPT` and `ImageGPTClassifier` share: backbone, mask, loss, features.

    The generative loss is added in `call` (`add_loss`), so `compile` needs none.

    Args:
        config: the sizes.
        objective: "ar" or "bert".
        generative_weight: factor of the generative term in the loss.
        mask_probability: chance of each position to be in M (BERT; 0.15 in the paper).
        palette: the `ColorPalette` whose indices the tokens are; travels with the model.
    """

    def __init__(
        self,
        config: ImageGPTConfig,
        objective: str = "ar",
        *,
        generative_weight: float = 1.0,
        mask_probability: float = 0.15,
        palette: ColorPalette | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 < mask_probability < 1:
            raise InputError(
                f"mask_probability must lie between 0 and 1, both excluded, got {mask_probability}"
            )
        if not (generative_weight >= 0 and math.isfinite(generative_weight)):
            raise InputError(f"generative_weight must be finite and >= 0, got {generative_weight}")
        self.config = config
        self.generative_weight = generative_weight
        self.mask_probability = mask_probability
        self.palette = palette
        self.backbone = ImageGPTBackbone(
            config, objective, name="backbone", dtype=self.dtype_policy
        )
        if generative_weight > 0:
            self.token_logits = keras.layers.Dense(
                config.vocabulary_size,
                use_bias=False,
                kernel_initializer="zeros",
                name="token_logits",
                dtype="float32",
            )
            self.bits_per_pixel = keras.metrics.Mean(name="bits_per_pixel")
        if objective == "bert":
            self.mask_seed = keras.random.SeedGenerator()

    @property
    def objective(self) -> str:
        return self.backbone.objective

    @property
    def palette(self) -> ColorPalette | None:
        return self._palette

    @palette.setter
    def palette(self, palette):
        if palette is not None and palette.num_colors != self.config.vocabulary_size:
            raise InputError(
                f"palette must have vocabulary_size={self.config.vocabulary_size} colours, "
                f"got {palette.num_colors}"
            )
        self._palette = palette

    def build(self, tokens_shape):
        self.backbone.build(tokens_shape)
        if self.generative_weight > 0:
            self.token_logits.build((*tokens_shape, self.config.hidden_dim))
        self.built = True

    def __call__(self, inputs, *args, **kwargs):
        self._check_inputs(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def fit(self, x=None, *args, **kwargs):
        self._check_inputs(x)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        self._check_inputs(x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        self._check_inputs(x)
        return super().predict(x, *args, **kwargs)

    def _check_inputs(self, inputs):
        """Raises `InputError` for tokens of another shape, dtype or vocabulary, or such a mask."""
        if isinstance(inputs, dict):
            self._check_keys(inputs)
        tokens = inputs["tokens"] if isinstance(inputs, dict) else inputs
        if not hasattr(tokens, "shape") or not hasattr(tokens, "dtype"):
            return
        n = self.config.sequence_length
        if len(tokens.shape) != 2 or tokens.shape[1] not in (n, None):
            raise InputError(
                f"tokens must have shape [batch, {n}] (image_size={self.config.image_size}), "
                f"got {list(tokens.shape)}"
            )
        if "int" not in keras.backend.standardize_dtype(tokens.dtype):
            raise InputError(f"tokens must be integers, got {tokens.dtype}")
        if isinstance(tokens, np.ndarray) and tokens.size:
            low, high = tokens.min(), tokens.max()
            if low < 0 or high >= self.config.vocabulary_size:
                raise InputError(
                    f"tokens must lie in 0…{self.config.vocabulary_size - 1} "
                    f"(vocabulary_size={self.config.vocabulary_size}), got {low}…{high}"
                )

    def _check_keys(self, inputs: dict):
        if "tokens" not in inputs or not set(inputs) <= {"tokens", "masked"}:
            raise InputError(
                f'inputs must have the keys "tokens" and, for BERT, "masked"; got {sorted(inputs)}'
            )
        tokens, masked = (
            np.shape(inputs["tokens"]),
            np.shape(inputs.get("masked", inputs["tokens"])),
        )
        if masked != tokens:
            raise InputError(f"masked must have the shape of tokens, {tokens}, got {masked}")

    def _with_mask(self, inputs) -> dict:
        """Int32 tokens in a dictionary, for BERT with a mask M: the given one or a fresh one."""
        if not isinstance(inputs, dict):
            inputs = {"tokens": inputs}
        # Tokens from a cache on disk are uint16, which not every operation takes.
        inputs = {**inputs, "tokens": ops.cast(inputs["tokens"], "int32")}
        if self.objective == "ar":
            return {"tokens": inputs["tokens"]}
        if "masked" in inputs:
            return {**inputs, "masked": ops.cast(inputs["masked"], "bool")}
        shape = ops.shape(inputs["tokens"])
        drawn = keras.random.uniform(shape, dtype="float32", seed=self.mask_seed)
        return {**inputs, "masked": drawn < self.mask_probability}

    def _nats(self, inputs, logits):
        """The generative loss of each image, float32 [B]."""
        if self.objective == "ar":
            return autoregressive_nats(inputs["tokens"], logits)
        return masked_nats(inputs["tokens"], logits, inputs["masked"])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        # Keras also calls this to build metrics symbolically, when no loss is there.
        if self.generative_weight > 0 and self.losses:
            # The model's own `add_loss` comes before those of its layers.
            nats = self.losses[0] / self.generative_weight
            self.bits_per_pixel.update_state(
                nats / math.log(2), sample_weight=ops.cast(ops.shape(y_pred)[0], "float32")
            )
        return loss

    def features(self, tokens, layer: int):
        """f^l, the mean of n^l over the sequence (paper, section 2.4).

        Args:
            tokens: as the model's inputs.
            layer: l, from 0 (the embeddings) to `num_layers` (the final states).

        Returns: float32 [B, d].

        Raises:
            InputError: `layer` outside 0…L, or unusable tokens.
        """
        self.check_layer(layer)
        self._check_inputs(tokens)
        return pool(self.backbone.normalised_states(self._with_mask(tokens), layer)[layer])

    def features_of_all_layers(self, tokens):
        """f^0 … f^L in one pass, with one mask M: float32 [B, L + 1, d]; see `features`."""
        self._check_inputs(tokens)
        states = self.backbone.normalised_states(self._with_mask(tokens))
        return ops.stack([pool(n) for n in states], axis=1)

    def generate(self, images, **settings):
        """Completes images: `igpt_keras.complete` with this model and its palette.

        >>> model.generate(images, keep_rows=16, num_completions=8).images

        Args:
            images: uint8 [B, R, R, 3].
            **settings: the further arguments of `igpt_keras.complete`.

        Returns: the `Completions`.
        """
        return igpt_keras.complete(self, None, images, **settings)

    def check_layer(self, layer: int) -> None:
        """Raises `InputError` for a layer that features cannot be taken from."""
        if not 0 <= layer <= self.config.num_layers:
            raise InputError(f"layer must lie in 0…{self.config.num_layers}, got {layer}")

    def get_config(self):
        return {
            **super().get_config(),
            "config": self.config.to_dict(),
            "objective": self.objective,
            "generative_weight": self.generative_weight,
            "mask_probability": self.mask_probability,
            "palette": None if self.palette is None else self.palette.colors.tolist(),
        }

    @classmethod
    def from_config(cls, config):
        palette = config.get("palette")
        return cls(
            **{
                **config,
                "config": ImageGPTConfig(**config["config"]),
                "palette": None if palette is None else ColorPalette(palette),
            }
        )


def pool(states):
    """The mean over the sequence, in float32: [B, n, d] to [B, d]."""
    return ops.mean(ops.cast(states, "float32"), axis=1)


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
        mask_probability: float = 0.15,
        palette: ColorPalette | None = None,
        **kwargs,
    ):
        super().__init__(
            config, objective, mask_probability=mask_probability, palette=palette, **kwargs
        )
        self.build((None, config.sequence_length))

    def call(self, inputs):
        inputs = self._with_mask(inputs)
        logits = self.token_logits(self.backbone(inputs))
        self.add_loss(mean_over_images(self._nats(inputs, logits)))
        return logits

    def per_image(self, inputs) -> dict:
        """`nats`, the generative loss of each image: float32 [B]."""
        inputs = self._with_mask(inputs)
        return {"nats": self._nats(inputs, self.token_logits(self.backbone(inputs)))}

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape, self.config.vocabulary_size)

    def get_config(self):
        config = super().get_config()
        del config["generative_weight"]
        return config


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
        self.class_logits = keras.layers.Dense(
            num_classes,
            use_bias=False,
            kernel_initializer="zeros",
            name="class_logits",
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
            palette=model.palette,
            **{"dtype": model.dtype_policy, **kwargs},
        )
        classifier.backbone.set_weights(model.backbone.get_weights())
        if classifier.generative_weight > 0:
            classifier.token_logits.set_weights(model.token_logits.get_weights())
        return classifier

    def build(self, tokens_shape):
        super().build(tokens_shape)
        self.class_logits.build((None, self.config.hidden_dim))
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
            self.add_loss(self.generative_weight * mean_over_images(outputs["nats"]))
        return outputs["class_logits"]

    def per_image(self, inputs) -> dict:
        """`class_logits`, float32 [B, C]; with a token head also `nats`, as of `ImageGPT`."""
        inputs = self._with_mask(inputs)
        if self.generative_weight == 0:
            states = self.backbone.normalised_states(inputs, self.layer)
            return {"class_logits": self.class_logits(pool(states[self.layer]))}
        states = self.backbone.normalised_states(inputs)
        return {
            "class_logits": self.class_logits(pool(states[self.layer])),
            "nats": self._nats(inputs, self.token_logits(states[-1])),
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
