"""Image GPT and its classifier: Keras models on one backbone.

Both take tokens int32 [B, n] (n = image_size², raster order), or a dictionary
`{"tokens": tokens, "masked": masked}` whose bool [B, n] mask M says which
positions a BERT model does not see. Without it, a BERT model draws M anew at
every call, in training and in evaluation (paper, section 2.2 and appendix).
"""

import contextlib
import math

import keras
import numpy as np
from keras import ops

from igpt_keras import paper
from igpt_keras.errors import InputError
from igpt_keras.models.masking import draw_fresh_mask
from igpt_keras.network.backbone import ImageGPTBackbone
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.network.losses import autoregressive_nll, masked_nll
from igpt_keras.tokenizers.base import ImageTokenizer, bind, deserialize, serialize

if keras.backend.backend() == "tensorflow":
    from igpt_keras.models.distributed import DistributedTrainer as Trainer
else:

    class Trainer:
        """Other backends distribute by themselves (`keras.distribution`)."""

        distribute_scope = contextlib.nullcontext


class GenerativeModel(Trainer, keras.Model):
    """What `ImageGPT` and `ImageGPTClassifier` share: backbone, mask, loss, features.

    The generative loss is added in `call` (`add_loss`), so `compile` needs none.

    Args:
        config: the sizes.
        objective: "ar" or "bert".
        generative_weight: factor of the generative term in the loss.
        mask_probability: chance of each position to be in M (BERT; 0.15 in the paper).
        tokenizer: Maps images to tokens and back; saved with the model. None if the model
            is only given tokens.
    """

    def __init__(
        self,
        config: ImageGPTConfig,
        objective: str = "ar",
        *,
        generative_weight: float = paper.GENERATIVE_WEIGHT,
        mask_probability: float = paper.MASK_PROBABILITY,
        tokenizer: ImageTokenizer | None = None,
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
        self.tokenizer = tokenizer
        self.backbone = ImageGPTBackbone(
            config, objective, name="backbone", dtype=self.dtype_policy
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
        return self.backbone.objective

    @property
    def tokenizer(self) -> ImageTokenizer | None:
        """The tokenizer, bound to the model's image size; None if it has none."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: ImageTokenizer | None):
        if tokenizer is not None:
            config = self.config
            tokenizer = bind(
                tokenizer, config.image_size, config.vocabulary_size, config.sequence_length
            )
        # Set past Keras, which would count a tokenizer's weights among the model's.
        object.__setattr__(self, "_tokenizer", tokenizer)

    def build(self, tokens_shape):
        self.backbone.build(tokens_shape)
        if self.generative_weight > 0:
            self.token_head.build((*tokens_shape, self.config.hidden_dim))
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
        masked = draw_fresh_mask(shape, self.mask_probability, self.mask_seed)
        return {**inputs, "masked": masked}

    def _nll(self, inputs, logits):
        """The generative loss of each image, float32 [B]."""
        if self.objective == "ar":
            return autoregressive_nll(inputs["tokens"], logits)
        return masked_nll(inputs["tokens"], logits, inputs["masked"])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        # Keras also calls this to build metrics symbolically, when no loss is there.
        if self.generative_weight > 0 and self.losses:
            # The model's own `add_loss` comes before those of its layers.
            nll = self.losses[0] / self.generative_weight
            self.bits_per_pixel.update_state(
                nll / math.log(2), sample_weight=ops.cast(ops.shape(y_pred)[0], "float32")
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
        return pool(self.backbone.normalized_states(self._with_mask(tokens), layer)[layer])

    def features_of_all_layers(self, tokens):
        """f^0 … f^L in one pass, with one mask M: float32 [B, L + 1, d]; see `features`."""
        self._check_inputs(tokens)
        states = self.backbone.normalized_states(self._with_mask(tokens))
        return ops.stack([pool(n) for n in states], axis=1)

    def generate(self, images, **settings):
        """Completes images: `igpt_keras.sampling.generate.generate` with this model."""
        from igpt_keras.sampling.generate import generate

        return generate(self, images, **settings)

    def sample(self, num_samples, **settings):
        """Samples images from nothing: `igpt_keras.sampling.generate.sample` with this model."""
        from igpt_keras.sampling.generate import sample

        return sample(self, num_samples, **settings)

    def score(self, images, **settings):
        """Log-likelihoods of images: `igpt_keras.sampling.scoring.score` with this model."""
        from igpt_keras.sampling.scoring import score

        return score(self, images, **settings)

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
            "tokenizer": serialize(self.tokenizer),
        }

    @classmethod
    def from_config(cls, config):
        return cls(
            **{
                **config,
                "config": ImageGPTConfig(**config["config"]),
                "tokenizer": deserialize(config.get("tokenizer")),
            }
        )


def pool(states):
    """The mean over the sequence, in float32: [B, n, d] to [B, d]."""
    return ops.mean(ops.cast(states, "float32"), axis=1)
