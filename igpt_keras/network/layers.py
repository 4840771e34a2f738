"""The layers of an Image GPT: embedding, attention, MLP and block.

Shapes: B images, n positions, d `hidden_dim`, H heads of width D = d / H, V
`vocabulary_size`. The layers use `keras.ops` only, so they run on any backend.
"""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportOptionalMemberAccess=false

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops
from keras.initializers import RandomNormal

from igpt_keras import paper
from igpt_keras.network.attention_patterns import AttentionPattern, deserialize
from igpt_keras.network.attention_patterns.dense import DENSE
from igpt_keras.network.initial_weights import InitialWeights
from igpt_keras.network.pointwise import RMSNorm, quick_gelu
from igpt_keras.network.projection import Projection
from igpt_keras.tensors import Shape, Tensor

# The label of an image that has none.
NO_CLASS = -1


def rms_norm(name: str, dtype: Any) -> RMSNorm:
    """Returns a norm with the epsilon of the published code."""
    return RMSNorm(epsilon=paper.NORM_EPSILON, name=name, dtype=dtype)


@keras.saving.register_keras_serializable("igpt_keras")
class TokenEmbedding(keras.layers.Layer):
    """Maps tokens to the first hidden states: token embedding plus position embedding.

    With a start vector (autoregressive), position i holds the embedding of token i - 1, and
    position 0 the start vector, or that of the image's class. Without one (BERT), or with
    `shift_right=False`, position i holds the embedding of token i, or zero where `masked` is true.

    Args:
        vocabulary_size: V.
        sequence_length: n, the largest number of positions.
        hidden_dim: d.
        use_start_vector: Whether there is a start vector.
        shift_right: Whether the start vector is used. If not, it has no gradient.
        axial_grid: Rows and columns of the positions, if a position's embedding is the sum of
            its row's and its column's; None if each position has an embedding of its own.
        token_stddev: Standard deviation of the initial token embeddings and start vector.
        position_stddev: Standard deviation of the initial position embeddings.
        num_classes: K, the number of classes with a start vector each; None without classes.

    Call arguments:
        tokens: int32 [B, m], the first m ≤ n tokens.
        masked: bool [B, m] or None, true at the positions of the mask M.
        labels: int32 [B], the classes of the images, -1 for none; None if no image has one.

    Output shape:
        [B, m, d], in the compute dtype. An image with a token outside 0…V-1, or a label outside
        -1…K-1, has NaNs: of such a token, TensorFlow, JAX and XLA each take another row of the
        table.

    Example:
        >>> embedding = TokenEmbedding(512, 1024, hidden_dim=64, use_start_vector=True)
        >>> embedding(np.zeros((2, 1024), "int32")).shape
        TensorShape([2, 1024, 64])
    """

    def __init__(
        self,
        vocabulary_size: int,
        sequence_length: int,
        hidden_dim: int,
        use_start_vector: bool,
        shift_right: bool = True,
        axial_grid: tuple[int, int] | None = None,
        token_stddev: float = paper.EMBEDDING_STDDEV,
        position_stddev: float = paper.POSITION_STDDEV,
        num_classes: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length
        self.hidden_dim = hidden_dim
        self.use_start_vector = use_start_vector
        self.shift_right = shift_right
        self.axial_grid = None if axial_grid is None else tuple(axial_grid)
        self.token_stddev = token_stddev
        self.position_stddev = position_stddev
        self.num_classes = num_classes

    def build(self, tokens_shape: Shape) -> None:
        def add(name, *shape, stddev=self.token_stddev, **settings):
            initializer = RandomNormal(stddev=stddev)
            return self.add_weight(
                shape=(*shape, self.hidden_dim), initializer=initializer, name=name, **settings
            )

        self.token_embedding = add("token_embedding", self.vocabulary_size)
        if self.axial_grid is None:
            self.position_embedding = add(
                "position_embedding", self.sequence_length, stddev=self.position_stddev
            )
        else:
            rows, columns = self.axial_grid
            self.row_embedding = add("row_embedding", rows, stddev=self.position_stddev)
            self.column_embedding = add("column_embedding", columns, stddev=self.position_stddev)
        if self.use_start_vector:
            self.start_vector = add("start_vector", trainable=self.shift_right)
        if self.num_classes is not None:
            self.class_embedding = add("class_embedding", self.num_classes)

    def call(
        self, tokens: Tensor, masked: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        x = ops.take(self.token_embedding, tokens, axis=0)
        unknown = ops.logical_or(tokens < 0, tokens >= self.vocabulary_size)
        if self.use_start_vector and self.shift_right:
            # Every position of an image attends to the start vector.
            start = self.start_vectors(labels)
            start += _nan_where(ops.any(unknown, axis=1), x.dtype)[:, None, None]
            x = ops.concatenate([start, x[:, :-1]], axis=1)
        else:
            replaced = unknown if masked is None else ops.logical_or(masked, unknown)
            x = ops.where(replaced[:, :, None], _nan_where(unknown, x.dtype)[:, :, None], x)
        return x + self.positions()[: ops.shape(tokens)[1]]

    def start_vectors(self, labels: Tensor | None = None) -> Tensor:
        """Returns what images begin with, the start vector or that of their class.

        Args:
            labels: int32 [B], -1 for the start vector; None if it is that of all images.

        Returns:
            [B, 1, d], or [1, 1, d] without labels.
        """
        if labels is None:
            return self.start_vector[None, None]
        table = ops.concatenate([self.start_vector[None], self.class_embedding])
        unknown = ops.logical_or(labels < NO_CLASS, labels >= self.num_classes)
        start = (
            ops.take(table, labels - NO_CLASS, axis=0) + _nan_where(unknown, table.dtype)[:, None]
        )
        return start[:, None]

    def positions(self) -> Tensor:
        """Returns the embeddings of all positions, [n, d]."""
        if self.axial_grid is None:
            return ops.convert_to_tensor(self.position_embedding)
        embeddings = self.row_embedding[:, None] + self.column_embedding[None]
        return ops.reshape(embeddings, (self.sequence_length, self.hidden_dim))

    def step(self, previous: Tensor, start: Tensor, labels: Tensor | None = None) -> Tensor:
        """Embeds some positions, for a decoder that goes step by step; needs a start vector.

        Args:
            previous: int32 [B, k], the tokens at positions `start` - 1 … `start` + k - 2. The
                value at position -1 is ignored.
            start: int32 scalar.
            labels: As for the call.

        Returns:
            [B, k, d] in the compute dtype, positions `start` … `start` + k - 1 of `call`.
        """
        positions = start + ops.arange(ops.shape(previous)[1])
        x = ops.where(
            (positions == 0)[:, None],
            self.start_vectors(labels),
            ops.take(self.token_embedding, previous, axis=0),
        )
        x = ops.cast(x, self.compute_dtype)
        if self.axial_grid is None:
            return x + self._taken(self.position_embedding, positions)
        columns = self.axial_grid[1]
        row = self._taken(self.row_embedding, positions // columns)
        return x + (row + self._taken(self.column_embedding, positions % columns))

    def _taken(self, table, indices):
        return ops.cast(ops.take(table, indices, axis=0), self.compute_dtype)

    def compute_output_shape(self, tokens_shape: Shape) -> Shape:
        return (*tokens_shape, self.hidden_dim)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "sequence_length": self.sequence_length,
            "hidden_dim": self.hidden_dim,
            "use_start_vector": self.use_start_vector,
            "shift_right": self.shift_right,
            "axial_grid": self.axial_grid,
            "token_stddev": self.token_stddev,
            "position_stddev": self.position_stddev,
            "num_classes": self.num_classes,
        }


class _AttentionLayer(keras.layers.Layer):
    """The arguments that `SelfAttention` and `Block` share."""

    def __init__(
        self,
        num_heads: int,
        causal: bool,
        use_bias: bool,
        initial: InitialWeights,
        pattern: AttentionPattern = DENSE,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.causal = causal
        self.use_bias = use_bias
        self.initial = initial
        self.pattern = pattern

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "causal": self.causal,
            "use_bias": self.use_bias,
            "initial": dataclasses.asdict(self.initial),
            "pattern": self.pattern.get_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        initial, pattern = InitialWeights(**config["initial"]), deserialize(config["pattern"])
        return cls(**{**config, "initial": initial, "pattern": pattern})


@keras.saving.register_keras_serializable("igpt_keras")
class SelfAttention(_AttentionLayer):
    """Multi-head self-attention, scaled by 1/√D, causal or not.

    Args:
        num_heads: H.
        causal: Whether a position attends only to itself and earlier ones.
        use_bias: Whether both projections have bias vectors.
        initial: Standard deviations of the initial weights.
        pattern: Which keys a query attends to, in addition to causality.

    Call arguments:
        x: [B, n, d]; with `attend` also [B · n, d], which needs fewer TensorFlow operations.
        attend: Maps queries, keys and values, each [..., H, D], and the pattern to attended
            values of the same shape; None for the pattern's `attend`. A decoder passes its own.

    Output shape:
        The shape of `x`.

    Example:
        >>> initial = initial_weights("image_gpt", hidden_dim=64, num_layers=12)
        >>> attention = SelfAttention(4, causal=True, use_bias=False, initial=initial)
        >>> attention(np.zeros((2, 9, 64), "float32")).shape
        TensorShape([2, 9, 64])
    """

    def build(self, input_shape: Shape) -> None:
        d = input_shape[-1]
        self.head_dim = d // self.num_heads
        self.qkv = _projection(3 * d, self.initial.qkv, "qkv", self)
        self.qkv.build(input_shape)
        self.output_proj = _projection(d, self.initial.attention_output, "output_proj", self)
        self.output_proj.build(input_shape)

    def call(self, x: Tensor, attend: Callable | None = None) -> Tensor:
        batch = (-1,) if len(x.shape) == 2 else ops.shape(x)[:-1]
        qkv = ops.reshape(self.qkv(x), (*batch, 3, self.num_heads, self.head_dim))
        unstacked: Any = ops.unstack(qkv, 3, axis=-3)
        query, key, value = unstacked
        if attend is None:
            attended = self.pattern.attend(query, key, value, self.causal)
        else:
            attended = attend(query, key, value, self.pattern)
        return self.output_proj(ops.reshape(attended, (*batch, x.shape[-1])))


@keras.saving.register_keras_serializable("igpt_keras")
class MLP(keras.layers.Layer):
    """Two projections with `quick_gelu` in between, 4 d wide: [B, n, d] to [B, n, d].

    Args:
        use_bias: Whether both projections have bias vectors.
        initial: Standard deviations of the initial weights.
    """

    def __init__(self, use_bias: bool, initial: InitialWeights, **kwargs):
        super().__init__(**kwargs)
        self.use_bias = use_bias
        self.initial = initial

    def build(self, input_shape: Shape) -> None:
        d = input_shape[-1]
        width = paper.MLP_RATIO * d
        self.up_proj = _projection(width, self.initial.mlp_up, "up_proj", self)
        self.up_proj.build(input_shape)
        self.down_proj = _projection(d, self.initial.mlp_down, "down_proj", self)
        self.down_proj.build((*input_shape[:-1], width))

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        return self.down_proj(quick_gelu(self.up_proj(x), training))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        initial = dataclasses.asdict(self.initial)
        return {**super().get_config(), "use_bias": self.use_bias, "initial": initial}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MLP":
        return cls(**{**config, "initial": InitialWeights(**config["initial"])})


@keras.saving.register_keras_serializable("igpt_keras")
class Block(_AttentionLayer):
    """One pre-norm transformer block (paper, section 2.2).

    n = norm(h); a = h + attention(n); h' = a + mlp(norm(a)).

    Its arguments, call arguments and result are those of `SelfAttention`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        dtype = self.dtype_policy
        self.attention_norm = rms_norm("attention_norm", dtype)
        self.attention = SelfAttention(
            self.num_heads,
            self.causal,
            self.use_bias,
            self.initial,
            self.pattern,
            name="attention",
            dtype=dtype,
        )
        self.mlp_norm = rms_norm("mlp_norm", dtype)
        self.mlp = MLP(self.use_bias, self.initial, name="mlp", dtype=dtype)

    def build(self, input_shape: Shape) -> None:
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            layer.build(input_shape)

    def call(self, h: Tensor, attend: Callable | None = None) -> Tensor:
        a = h + self.attention(self.attention_norm(h), attend=attend)
        return a + self.mlp(self.mlp_norm(a))


def _nan_where(condition, dtype):
    """Returns NaN where `condition` holds, else 0."""
    return ops.cast(ops.where(condition, float("nan"), 0.0), dtype)


def _projection(units: int, stddev: float, name: str, layer: SelfAttention | MLP) -> Projection:
    """Returns a projection of `layer`, with its bias and dtype settings."""
    initializer: Any = RandomNormal(stddev=stddev)
    return Projection(
        units,
        use_bias=layer.use_bias,
        kernel_initializer=initializer,
        name=name,
        dtype=layer.dtype_policy,
    )
