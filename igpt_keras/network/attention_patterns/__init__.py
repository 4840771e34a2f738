"""Attention patterns, one module each: which keys a query attends to, besides causality.

A model names its pattern in `ImageGPTConfig.attention_pattern`. Training, the cached decoder
and speculative decoding all take their masks from it. To add a pattern, put a module of that
name into this folder, or list one under the entry-point group `igpt_keras.plugins`:

```python
import dataclasses

from keras import ops

from igpt_keras.network.attention_patterns import AttentionPattern, register_attention_pattern

@register_attention_pattern("window")
@dataclasses.dataclass(frozen=True)
class Window(AttentionPattern):
    \"\"\"A position sees those less than `width` away; here the width of an image.\"\"\"

    width: int

    @classmethod
    def for_block(cls, config, block):
        return cls(width=config.image_size)

    def visible(self, query_positions, key_positions):
        return ops.abs(query_positions - key_positions) < self.width
```
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from igpt_keras.registry import Registry

if TYPE_CHECKING:
    from igpt_keras.network.config import ImageGPTConfig

attention_patterns: Registry[type["AttentionPattern"]] = Registry(
    "attention pattern", package=__name__
)

Class = TypeVar("Class", bound=type["AttentionPattern"])


@dataclasses.dataclass(frozen=True)
class AttentionPattern(abc.ABC):
    """The base class of attention patterns.

    A subclass is a frozen dataclass whose fields are numbers or strings.

    Attributes:
        name: Name of the class in `attention_patterns`, set by `register_attention_pattern`.
    """

    name: ClassVar[str]

    @classmethod
    def for_block(cls, config: "ImageGPTConfig", block: int) -> "AttentionPattern":
        """Returns the pattern of one block of a model. A subclass with fields overrides it.

        Args:
            config: The model's sizes, such as `sequence_length`, `image_size` and `grid`.
            block: Index of the block, 0…L - 1.
        """
        del config, block
        return cls()

    @abc.abstractmethod
    def visible(self, query_positions: Any, key_positions: Any) -> Any:
        """Returns which keys each query attends to, computed with `keras.ops`.

        Two rules apply to every pattern: a causal model hides later positions, and a position
        always sees itself, so that no query is without a key.

        Args:
            query_positions: int32 [q, 1], positions in raster order, 0…n - 1.
            key_positions: int32 [1, k].

        Returns:
            bool, broadcastable to [q, k]; None if every query attends to every key.
        """

    def get_config(self) -> dict[str, Any]:
        """Returns the name and the fields, JSON-serializable; `deserialize` reads them."""
        return {"name": self.name, **dataclasses.asdict(self)}


def register_attention_pattern(name: str) -> Callable[[Class], Class]:
    """Returns a decorator that registers a subclass of `AttentionPattern` as `name`."""

    def register(cls: Class) -> Class:
        attention_patterns.register(name)(cls)
        cls.name = name
        return cls

    return register


def deserialize(config: dict[str, Any]) -> AttentionPattern:
    """Returns the pattern that `AttentionPattern.get_config` describes.

    Raises:
        InputError: There is no pattern of that name.
    """
    fields = dict(config)
    return attention_patterns.get(fields.pop("name"))(**fields)
