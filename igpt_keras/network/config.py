"""The sizes of an Image GPT."""

import dataclasses
import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.network.attention_patterns import AttentionPattern, attention_patterns
from igpt_keras.network.initial_weights import check_initializer
from igpt_keras.network.presets import sizes_of
from igpt_keras.short_repr import ShortRepr

OBJECTIVES = ("ar", "bert")


def check_objective(objective: str) -> str:
    """Returns `objective`; raises `InputError` if it is neither "ar" nor "bert"."""
    if objective not in OBJECTIVES:
        raise InputError(f'objective must be "ar" or "bert", got {objective!r}')
    return objective


def is_integer(value: Any) -> bool:
    """Returns whether `value` is an integer of Python or NumPy; True and False are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def integer_of_at_least(minimum: int, name: str, value: Any) -> int:
    """Returns the argument `name` as an `int`; raises `InputError` for any other value."""
    if not is_integer(value):
        raise InputError(f"{name} must be an integer, got {value!r}")
    if value < minimum:
        raise InputError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def check_class_names(names: Iterable[Any] | None, num_classes: int) -> list[str]:
    """Returns the names of classes; they are "0", "1", … where `names` is None.

    Raises:
        InputError: There are more or fewer names than classes.
    """
    names = list(map(str, range(num_classes) if names is None else names))
    if len(names) != num_classes:
        raise InputError(f"class_names must hold num_classes={num_classes} names, got {len(names)}")
    return names


@dataclasses.dataclass(frozen=True, repr=False)
class ImageGPTConfig(ShortRepr):
    """The sizes of an Image GPT (paper, sections 3.2 and 3.3).

    Args:
        image_size: Side R of the square images in pixels (the paper's input resolution, IR).
        vocabulary_size: Number of different tokens, V; the colors of the palette.
        hidden_dim: Width d of the hidden states; a multiple of `num_heads`.
        num_layers: Number of blocks, L.
        num_heads: Attention heads of a block, H.
        use_bias: Whether the projections of the blocks have bias vectors. The published code
            has none; Hugging Face's port has them.
        grid: Rows and columns of an image's tokens, as the tokenizer's `grid`; None for one
            token per pixel, R × R.
        attention: Name of a pattern in `igpt_keras.network.attention_patterns`: "dense", or
            "strided" or "fixed" of the Sparse Transformer.
        stride: Positions in a row of a sparse pattern, l; divides n. None for the columns of
            the token grid, so that rows are those of the image.
        summary: Summary positions of a row for each head, c, of "fixed"; None for l / 8.
        attention_layers: The parts of a sparse pattern that consecutive blocks have, over and
            over: "local", "column" and "merged" of "strided", "local", "summary" and "merged"
            of "fixed". None for a local one and the other in turn. The paper's models of
            CIFAR-10 have `("column", "local", "local", "local")` in its code.
        axial_positions: Whether a position's embedding is the sum of one for its row and one
            for its column of the token grid, as in the Sparse Transformer. With a token for each
            channel, a column is one of pixels and a channel: an embedding for each pair, of
            which the paper sums two.
        initializer: Scheme of the initial weights: "image_gpt" or "sparse_transformer", see
            `igpt_keras.network.initial_weights`.
        num_classes: Number of classes, K, that an autoregressive model can be conditioned on,
            each with a start vector of its own; None for a model without classes.

    Raises:
        InputError: A size is not a positive integer, `num_heads` does not divide
            `hidden_dim`, there is no such pattern, or its options do not fit it.

    Example:
        >>> config = ImageGPTConfig(
        ...     image_size=32, vocabulary_size=512, hidden_dim=256, num_layers=12, num_heads=8
        ... )
        >>> config.sequence_length
        1024
    """

    image_size: int
    vocabulary_size: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    use_bias: bool = False
    grid: tuple[int, int] | None = None
    attention: str = "dense"
    stride: int | None = None
    summary: int | None = None
    attention_layers: tuple[str, ...] | None = None
    axial_positions: bool = False
    initializer: str = "image_gpt"
    num_classes: int | None = None

    def __post_init__(self):
        self._check_grid()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("grid", "attention", "attention_layers", "initializer"):
                continue
            if field.name in ("stride", "summary", "num_classes") and value is None:
                continue
            if field.type is bool:
                if not isinstance(value, bool | np.bool_):
                    raise InputError(f"{field.name} must be True or False, got {value!r}")
                value = bool(value)
            elif is_integer(value) and value > 0:
                value = int(value)
            else:
                raise InputError(f"{field.name} must be a positive integer, got {value!r}")
            # NumPy's numbers cannot be written as JSON.
            object.__setattr__(self, field.name, value)
        if self.hidden_dim % self.num_heads:
            raise InputError(
                f"hidden_dim must be a multiple of num_heads, "
                f"got hidden_dim={self.hidden_dim} and num_heads={self.num_heads}"
            )
        if self.num_classes == 1:
            raise InputError("num_classes must be at least 2, or None, got 1")
        check_initializer(self.initializer)
        self._check_attention()

    def _check_attention(self):
        layers = self.attention_layers
        if layers is not None:
            # JSON has lists for tuples.
            if not isinstance(layers, list | tuple) or not layers:
                raise InputError(
                    "attention_layers must hold names of layers, such as "
                    f'("local", "column"), got {layers!r}'
                )
            object.__setattr__(self, "attention_layers", tuple(layers))
        pattern = attention_patterns.get(self.attention)
        for name in ("stride", "summary", "attention_layers"):
            value = getattr(self, name)
            if value is not None and name not in pattern.options:
                raise InputError(
                    f'{name} must be None with attention="{self.attention}", got {value!r}'
                )
        self.pattern(0)

    def _check_grid(self):
        if self.grid is None:
            return
        # JSON has lists for tuples.
        grid = tuple(self.grid) if isinstance(self.grid, list | tuple | np.ndarray) else ()
        if len(grid) != 2 or not all(is_integer(side) and side > 0 for side in grid):
            raise InputError(
                f"grid must hold two positive integers (rows, columns), got {self.grid!r}"
            )
        object.__setattr__(self, "grid", tuple(map(int, grid)))

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "ImageGPTConfig":
        """Returns the sizes of a named model.

        Args:
            name: "image_gpt_small", "image_gpt_medium", "image_gpt_large" or
                "image_gpt_xlarge" of the paper, or one for a few CPU cores, "image_gpt_nano"
                (16² pixels) or "image_gpt_tiny" (32²).
            **overrides: Fields that differ, such as `image_size=48`.

        Raises:
            InputError: There is no preset of that name.

        Example:
            >>> ImageGPTConfig.preset("image_gpt_large", image_size=48).sequence_length
            2304
        """
        return cls(**{**sizes_of(name), **overrides})

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "ImageGPTConfig":
        """Returns the sizes with these fields, by name, as `to_dict` returns them.

        Models that were saved before `attention` had its name call it `attention_pattern`.
        """
        fields = dict(fields)
        if "attention_pattern" in fields:
            fields["attention"] = fields.pop("attention_pattern")
        return cls(**fields)

    def pattern(self, block: int) -> AttentionPattern:
        """Returns the attention pattern of a block, 0…L - 1.

        Raises:
            InputError: The pattern's options do not fit the sizes.
        """
        return attention_patterns.get(self.attention).for_block(self, block)

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of an image's tokens."""
        return self.grid or (self.image_size, self.image_size)

    @property
    def sequence_length(self) -> int:
        """Number of tokens of an image, n (the paper's model resolution, MR)."""
        return math.prod(self.token_grid)

    def describe_input(self) -> str:
        """Returns in words what a model sees of an image, such as "32×32 pixels, 512 colors"."""
        size = f"{self.image_size}×{self.image_size} pixels"
        classes = "" if self.num_classes is None else f", {self.num_classes} classes"
        if self.grid is None:
            return f"{size}, {self.vocabulary_size} colors{classes}"
        rows, columns = self.grid
        return f"{size}, {rows}×{columns} tokens of {self.vocabulary_size} values{classes}"

    @property
    def middle_layer(self) -> int:
        """The layer ⌈L/2⌉, near which features are best (paper, section 4.2)."""
        return (self.num_layers + 1) // 2

    @property
    def head_dim(self) -> int:
        """Width of an attention head, D."""
        return self.hidden_dim // self.num_heads

    def parameter_count(
        self, objective: str = "ar", num_classes: int = 0, token_head: bool = True
    ) -> int:
        """Returns the number of trainable parameters, without allocating any.

        Args:
            objective: "ar" has a start vector, and one for each class that it can be conditioned
                on; "bert" has none.
            num_classes: Classes of a classifier; 0 for a generative model.
            token_head: Whether there is a token head; a classifier trained without the
                generative loss has none.
        """
        check_objective(objective)
        d = self.hidden_dim
        block = 12 * d * d + 2 * d + (9 * d if self.use_bias else 0)
        positions = sum(self.token_grid) if self.axial_positions else self.sequence_length
        embeddings = (self.vocabulary_size + positions) * d
        start_vectors = (1 + (self.num_classes or 0)) * d if objective == "ar" else 0
        heads = (self.vocabulary_size * token_head + num_classes) * d
        return embeddings + start_vectors + self.num_layers * block + d + heads

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, JSON-serializable; `from_dict` reads them."""
        fields = dataclasses.asdict(self)
        if self.num_classes is None:
            # The files of models without classes are those of earlier versions.
            del fields["num_classes"]
        return fields
