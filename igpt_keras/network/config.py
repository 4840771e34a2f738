"""What an Image GPT is: its sizes, and the presets of the paper."""

import dataclasses

from igpt_keras import paper
from igpt_keras.errors import InputError
from igpt_keras.paper import PRESETS

OBJECTIVES = ("ar", "bert")


def check_objective(objective: str) -> str:
    """Returns `objective`; raises `InputError` if it is neither "ar" nor "bert"."""
    if objective not in OBJECTIVES:
        raise InputError(f'objective must be "ar" or "bert", got {objective!r}')
    return objective


@dataclasses.dataclass(frozen=True)
class ImageGPTConfig:
    """The sizes of an Image GPT (paper, section 3.2 and appendix).

    Args:
        image_size: side of the square input image, in pixels (the paper's input
            resolution, IR). The sequence has `image_size ** 2` tokens.
        vocabulary_size: number of colors in the palette (512 in the paper).
        hidden_dim: width `d` of the residual stream; a multiple of `num_heads`.
        num_layers: number of blocks, `L`.
        num_heads: attention heads per block.
        use_bias: whether the linear maps of the blocks have bias vectors. The
            published code has none; Hugging Face's port has them.

    Raises:
        InputError: a size that is not a positive integer, or a `hidden_dim` that
            `num_heads` does not divide.
    """

    image_size: int
    vocabulary_size: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    use_bias: bool = False

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is bool:
                if not isinstance(value, bool):
                    raise InputError(f"{field.name} must be True or False, got {value!r}")
            elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{field.name} must be a positive integer, got {value!r}")
        if self.hidden_dim % self.num_heads:
            raise InputError(
                f"hidden_dim must be a multiple of num_heads, "
                f"got hidden_dim={self.hidden_dim} and num_heads={self.num_heads}"
            )

    @classmethod
    def preset(cls, name: str, **overrides) -> "ImageGPTConfig":
        """Returns a configuration of the paper, by the name of its preset.

        Args:
            name: the preset's name.
            **overrides: fields to set otherwise, such as `image_size=48`.
        """
        if name not in PRESETS:
            raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
        return cls(**{"vocabulary_size": paper.PALETTE_SIZE, **PRESETS[name], **overrides})

    @property
    def sequence_length(self) -> int:
        """Number of tokens of an image (the paper's model resolution, MR)."""
        return self.image_size**2

    @property
    def head_dim(self) -> int:
        return self.hidden_dim // self.num_heads

    def parameter_count(
        self, objective: str = "ar", num_classes: int = 0, token_head: bool = True
    ) -> int:
        """Number of trainable parameters, without allocating any.

        Args:
            objective: "ar" has a start vector, "bert" has none.
            num_classes: rows of the class projection; 0 for a model without one.
            token_head: whether the output token embedding is counted; False for
                a classifier trained without the generative loss.
        """
        check_objective(objective)
        d = self.hidden_dim
        block = 12 * d * d + 2 * d + (9 * d if self.use_bias else 0)
        embeddings = (self.vocabulary_size + self.sequence_length) * d
        start_vector = d if objective == "ar" else 0
        heads = (self.vocabulary_size * token_head + num_classes) * d
        return embeddings + start_vector + self.num_layers * block + d + heads

    def to_dict(self) -> dict:
        """The fields as a JSON-serializable dictionary; `ImageGPTConfig(**d)` reads it."""
        return dataclasses.asdict(self)
