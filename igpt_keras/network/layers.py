"""The layers of an Image GPT: embedding, attention, MLP, block.

Shapes: B images, n positions, d `hidden_dim`, H heads of width D = d / H,
V `vocabulary_size`. Layers use `keras.ops` only, so they run on any backend.
"""

import keras
from keras import initializers, ops

from igpt_keras import paper
from igpt_keras.network.attention import dot_product_attention


def rms_norm(name: str, dtype) -> keras.layers.RMSNormalization:
    """The published code's norm: x · rsqrt(mean(x²) + 1e-5) · g, in float32 inside."""
    return keras.layers.RMSNormalization(epsilon=paper.NORM_EPSILON, name=name, dtype=dtype)


@keras.saving.register_keras_serializable("igpt_keras")
class TokenEmbedding(keras.layers.Layer):
    """Tokens to the first hidden states: content plus position.

    With a start vector (autoregressive), position i holds the content of token
    i - 1 and position 0 the start vector. Without (BERT), position i holds the
    content of token i, or zero where `masked` is true.

    Call arguments:
        tokens: int32 [B, m], the first m ≤ n tokens.
        masked: bool [B, m] or None, true at the positions of the mask M.

    Returns: [B, m, d] in the compute dtype.
    """

    def __init__(self, vocabulary_size, sequence_length, hidden_dim, start_vector, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length
        self.hidden_dim = hidden_dim
        self.has_start_vector = start_vector

    def build(self, tokens_shape):
        d = self.hidden_dim
        self.tokens = self.add_weight(
            shape=(self.vocabulary_size, d),
            initializer=initializers.RandomNormal(stddev=paper.EMBEDDING_STDDEV),
            name="tokens",
        )
        self.positions = self.add_weight(
            shape=(self.sequence_length, d),
            initializer=initializers.RandomNormal(stddev=paper.POSITION_STDDEV),
            name="positions",
        )
        if self.has_start_vector:
            self.start_vector = self.add_weight(
                shape=(d,),
                initializer=initializers.RandomNormal(stddev=paper.EMBEDDING_STDDEV),
                name="start_vector",
            )

    def call(self, tokens, masked=None):
        content = ops.take(self.tokens, tokens, axis=0)
        if masked is not None:
            content = ops.where(masked[:, :, None], ops.zeros_like(content), content)
        if self.has_start_vector:
            start = ops.broadcast_to(self.start_vector, ops.shape(content[:, :1]))
            content = ops.concatenate([start, content[:, :-1]], axis=1)
        return content + self.positions[: ops.shape(tokens)[1]]

    def step(self, previous, start):
        """Some positions of `call` with a start vector, for a decoder that goes step by step.

        Args:
            previous: int32 [B, k], the tokens at positions `start` - 1 … `start` + k - 2; at
                position -1 it does not matter which.
            start: int32 scalar.

        Returns: [B, k, d] in the compute dtype, of positions `start` … `start` + k - 1.
        """
        positions = start + ops.arange(ops.shape(previous)[1])
        content = ops.where(
            (positions == 0)[:, None], self.start_vector, ops.take(self.tokens, previous, axis=0)
        )
        added = ops.cast(ops.take(self.positions, positions, axis=0), self.compute_dtype)
        return ops.cast(content, self.compute_dtype) + added

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape, self.hidden_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "sequence_length": self.sequence_length,
            "hidden_dim": self.hidden_dim,
            "start_vector": self.has_start_vector,
        }


@keras.saving.register_keras_serializable("igpt_keras")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention, scaled by 1/√D, causal or not.

    Args:
        num_heads: H.
        causal: whether a position sees only itself and those before it.
        use_bias: whether both linear maps have bias vectors.
        output_stddev: standard deviation of the output map's initial weights
            (1/√(d·L) in the published code).

    Call arguments:
        x: [B, n, d], or with `attend` also [B · n, d]: products of matrices cost TensorFlow
            fewer operations than those of stacks.
        attend: what maps queries, keys and values, each [..., H, D], to attended
            values of the same shape; a decoder with a cache gives its own.

    Returns: of the shape of `x`.
    """

    def __init__(self, num_heads, causal, use_bias, output_stddev, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.causal = causal
        self.use_bias = use_bias
        self.output_stddev = output_stddev

    def build(self, input_shape):
        d = input_shape[-1]
        self.head_dim = d // self.num_heads
        self.qkv = keras.layers.Dense(
            3 * d,
            use_bias=self.use_bias,
            kernel_initializer=initializers.RandomNormal(stddev=paper.qkv_stddev(d)),
            name="qkv",
            dtype=self.dtype_policy,
        )
        self.qkv.build(input_shape)
        self.output_proj = keras.layers.Dense(
            d,
            use_bias=self.use_bias,
            kernel_initializer=initializers.RandomNormal(stddev=self.output_stddev),
            name="output_proj",
            dtype=self.dtype_policy,
        )
        self.output_proj.build(input_shape)

    def call(self, x, attend=None):
        leading = (-1,) if len(x.shape) == 2 else ops.shape(x)[:-1]
        heads = (*leading, 3, self.num_heads, self.head_dim)
        query, key, value = ops.unstack(ops.reshape(self.qkv(x), heads), 3, axis=-3)
        if attend is None:
            attended = dot_product_attention(query, key, value, self.causal)
        else:
            attended = attend(query, key, value)
        return self.output_proj(ops.reshape(attended, (*leading, x.shape[-1])))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "causal": self.causal,
            "use_bias": self.use_bias,
            "output_stddev": self.output_stddev,
        }


def quick_gelu(x):
    """The published activation, x · sigmoid(1.702 x)."""
    return x * ops.sigmoid(paper.GELU_FACTOR * x)


@keras.saving.register_keras_serializable("igpt_keras")
class MLP(keras.layers.Layer):
    """Two linear maps, 4 d wide in between, with `quick_gelu`. [B, n, d] to [B, n, d]."""

    def __init__(self, use_bias, **kwargs):
        super().__init__(**kwargs)
        self.use_bias = use_bias

    def build(self, input_shape):
        d = input_shape[-1]
        self.up_proj = self._linear_map(4 * d, "up_proj")
        self.up_proj.build(input_shape)
        self.down_proj = self._linear_map(d, "down_proj")
        self.down_proj.build((*input_shape[:-1], 4 * d))

    def _linear_map(self, units, name):
        return keras.layers.Dense(
            units,
            use_bias=self.use_bias,
            kernel_initializer=initializers.RandomNormal(stddev=paper.MLP_STDDEV),
            name=name,
            dtype=self.dtype_policy,
        )

    def call(self, x):
        return self.down_proj(quick_gelu(self.up_proj(x)))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "use_bias": self.use_bias}


@keras.saving.register_keras_serializable("igpt_keras")
class Block(keras.layers.Layer):
    """One pre-norm block (paper, section 2.3).

    n = norm(h); a = h + attention(n); h' = a + mlp(norm(a)).

    Arguments, call arguments and result are those of `SelfAttention`.
    """

    def __init__(self, num_heads, causal, use_bias, output_stddev, **kwargs):
        super().__init__(**kwargs)
        self.attention_norm = rms_norm("attention_norm", self.dtype_policy)
        self.attention = SelfAttention(
            num_heads, causal, use_bias, output_stddev, name="attention", dtype=self.dtype_policy
        )
        self.mlp_norm = rms_norm("mlp_norm", self.dtype_policy)
        self.mlp = MLP(use_bias, name="mlp", dtype=self.dtype_policy)

    def build(self, input_shape):
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            layer.build(input_shape)

    def call(self, h, attend=None):
        a = h + self.attention(self.attention_norm(h), attend=attend)
        return a + self.mlp(self.mlp_norm(a))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.attention.num_heads,
            "causal": self.attention.causal,
            "use_bias": self.attention.use_bias,
            "output_stddev": self.attention.output_stddev,
        }
