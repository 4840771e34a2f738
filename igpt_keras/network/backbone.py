"""The backbone: embedding, blocks and final norm."""

from functools import partial

import keras

from igpt_keras import paper
from igpt_keras.network.config import ImageGPTConfig, check_objective
from igpt_keras.network.layers import Block, TokenEmbedding, rms_norm


@keras.saving.register_keras_serializable("igpt_keras")
class ImageGPTBackbone(keras.Model):
    """Embedding, blocks, final norm: tokens to the normalized final states n^L.

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
                output_stddev=paper.attention_output_stddev(config.hidden_dim, config.num_layers),
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

    def normalized_states(self, inputs, last=None):
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
