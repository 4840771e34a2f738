"""The backbone: embedding, blocks and final norm."""

from functools import partial
from typing import Any

import keras

from igpt_keras.errors import InputError
from igpt_keras.network.config import ImageGPTConfig, check_objective
from igpt_keras.network.initial_weights import initial_weights
from igpt_keras.network.layers import Block, TokenEmbedding, rms_norm
from igpt_keras.tensors import Shape, Tensor


@keras.saving.register_keras_serializable("igpt_keras")
class ImageGPTBackbone(keras.Model):
    """Embedding, blocks and final norm: tokens to the normalized final states n^L.

    Args:
        config: The sizes.
        objective: "ar" (causal, with a start vector) or "bert" (neither).
        shift_right: Whether position 0 of "ar" reads the start vector and position i token
            i - 1; if not, position i reads token i, which cannot predict.

    Attributes:
        remat: Whether training keeps only the input of each block, and runs the block again
            for the gradient: less memory for a third more computation. `compile` of a model
            sets it.

    Call arguments:
        inputs: `{"tokens": int32 [B, n]}`; for "bert" also `"masked"`, bool [B, n]. With
            `config.num_classes`, `"labels"`, int32 [B], may give the classes: -1 for none.

    Output shape:
        [B, n, d], in the compute dtype.

    Example:
        >>> config = ImageGPTConfig.preset("image_gpt_small")
        >>> backbone = ImageGPTBackbone(config, "ar")
        >>> backbone({"tokens": np.zeros((1, 1024), "int32")}).shape
        TensorShape([1, 1024, 512])
    """

    remat = False

    def __init__(
        self, config: ImageGPTConfig, objective: str, shift_right: bool = True, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.config = config
        self.shift_right = shift_right
        self.objective = check_objective(objective)
        dtype = self.dtype_policy
        causal = objective == "ar"
        if config.num_classes is not None and not causal:
            raise InputError(
                f'num_classes={config.num_classes} needs objective="ar": a "bert" network has no '
                "start vector that could stand for a class"
            )
        initial = initial_weights(
            config.initializer, config.hidden_dim, config.num_layers, config.axial_positions
        )
        self.embedding = TokenEmbedding(
            config.vocabulary_size,
            config.sequence_length,
            config.hidden_dim,
            use_start_vector=causal,
            shift_right=shift_right,
            axial_grid=config.token_grid if config.axial_positions else None,
            token_stddev=initial.tokens,
            position_stddev=initial.positions,
            num_classes=config.num_classes,
            name="embedding",
            dtype=dtype,
        )
        self.blocks = [
            Block(
                config.num_heads,
                causal,
                config.use_bias,
                initial,
                config.pattern(i),
                name=f"block_{i}",
                dtype=dtype,
            )
            for i in range(config.num_layers)
        ]
        self.final_norm = rms_norm("final_norm", dtype)

    def build(self, tokens_shape: Shape) -> None:
        self.embedding.build(tokens_shape)
        states_shape = (*tokens_shape, self.config.hidden_dim)
        for layer in (*self.blocks, self.final_norm):
            layer.build(states_shape)
        self.built = True

    def call(self, inputs: dict[str, Tensor]) -> Tensor:
        h = self._embed(inputs)
        for block in self.blocks:
            h = self._run(block, h)
        return self.final_norm(h)

    def _embed(self, inputs):
        masked, labels = inputs.get("masked"), inputs.get("labels")
        return self.embedding(inputs["tokens"], masked=masked, labels=labels)

    def _run(self, block, h):
        if not self.remat:
            return block(h)
        # A new function in every trace: JAX caches traces by function, with their weights.
        return keras.remat(partial(block))(h)

    def hidden_states(self, inputs: dict[str, Tensor], last: int | None = None) -> list[Tensor]:
        """Returns h^0 … h^last, each [B, n, d]: the input of every block, and the last output.

        Args:
            inputs: As for the call.
            last: The last index, 0…L; None for L. Later blocks are not run.
        """
        states = [self._embed(inputs)]
        for block in self.blocks[:last]:
            states.append(self._run(block, states[-1]))
        return states

    def normalized_states(self, inputs: dict[str, Tensor], last: int | None = None) -> list[Tensor]:
        """Returns n^0 … n^last, each [B, n, d] (paper, section 2.4).

        n^l is h^l through the first norm of block l, or for l = L through the final norm.
        Arguments as for `hidden_states`.
        """
        norms = [*(block.attention_norm for block in self.blocks), self.final_norm]
        states = self.hidden_states(inputs, last)
        return [norm(h) for norm, h in zip(norms, states, strict=False)]

    def projections(self) -> dict[str, Any]:
        """Returns the projections of all blocks, by names such as block_0.attention.qkv."""
        return {
            f"{block.name}.{part.name}.{layer.name}": layer
            for block in self.blocks
            for part, layers in (
                (block.attention, (block.attention.qkv, block.attention.output_proj)),
                (block.mlp, (block.mlp.up_proj, block.mlp.down_proj)),
            )
            for layer in layers
        }

    def weights_without_classes(self) -> list[Any]:
        """Returns the weights that a network without classes has, in their order."""
        of_classes = getattr(self.embedding, "class_embedding", None)
        return [weight for weight in self.weights if weight is not of_classes]

    def compute_output_shape(self, tokens_shape: Shape) -> Shape:
        return (*tokens_shape, self.config.hidden_dim)

    @property
    def _default_save_signature(self) -> None:
        """Tells `tf.saved_model.save` that a backbone is a layer, without a signature of its own.

        Keras would call it with a tensor in the place of the dictionary.
        """
        return None

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> dict[str, Any]:
        """Shows the blocks to `tf.train.Checkpoint`, from which Keras hides lists of layers."""
        children = super()._trackable_children(save_type, **kwargs)
        if save_type != "checkpoint":
            return children
        return children | {block.name: block for block in self.blocks}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "config": self.config.to_dict(),
            "objective": self.objective,
            "shift_right": self.shift_right,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ImageGPTBackbone":
        return cls(**{**config, "config": ImageGPTConfig.from_dict(config["config"])})
