"""The sizes of an Image GPT."""

import dataclasses
import math
import numbers
from typing import Any

import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.network.attention_patterns import attention_patterns
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
        attention_pattern: Name of the pattern in `igpt_keras.network.attention_patterns`.

    Raises:
        InputError: A size is not a positive integer, `num_heads` does not divide
            `hidden_dim`, or there is no such pattern.

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
    attention_pattern: str = "dense"

    def __post_init__(self):
        self._check_grid()
        attention_patterns.get(self.attention_pattern)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("grid", "attention_pattern"):
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

    @property
    def sequence_length(self) -> int:
        """Number of tokens of an image, n (the paper's model resolution, MR)."""
        return self.image_size**2 if self.grid is None else math.prod(self.grid)

    @property
    def head_dim(self) -> int:
        """Width of an attention head, D."""
        return self.hidden_dim // self.num_heads

    def parameter_count(
        self, objective: str = "ar", num_classes: int = 0, token_head: bool = True
    ) -> int:
        """Returns the number of trainable parameters, without allocating any.

        Args:
            objective: "ar" has a start vector, "bert" has none.
            num_classes: Classes of a classifier; 0 for a generative model.
            token_head: Whether there is a token head; a classifier trained without the
                generative loss has none.
        """
        check_objective(objective)
        d = self.hidden_dim
        block = 12 * d * d + 2 * d + (9 * d if self.use_bias else 0)
        embeddings = (self.vocabulary_size + self.sequence_length) * d
        start_vector = d if objective == "ar" else 0
        heads = (self.vocabulary_size * token_head + num_classes) * d
        return embeddings + start_vector + self.num_layers * block + d + heads

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, JSON-serializable; `ImageGPTConfig(**fields)` reads them."""
        return dataclasses.asdict(self)
