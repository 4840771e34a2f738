"""Attention patterns, one module each: which keys a query attends to, besides causality.

A model names its pattern in `ImageGPTConfig.attention`. Training, the cached decoder and
speculative decoding all take from it which keys they need. To add a pattern, put a module of
that name into this folder, or list one under the entry-point group `igpt_keras.plugins`:

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

With `visible` alone, a pattern is a mask: attention computes all n × n scores and hides some.
A pattern that overrides `attend`, `keys_of` and `num_products` as well saves the work.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from keras import ops

from igpt_keras.network.attention import dot_product_attention, hidden_keys
from igpt_keras.registry import Registry
from igpt_keras.tensors import Tensor

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
        options: Fields of `ImageGPTConfig` that the pattern reads, of those that are only for
            patterns: "stride", "summary" and "attention_layers". Others have to be None.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def for_block(cls, config: "ImageGPTConfig", block: int) -> "AttentionPattern":
        """Returns the pattern of one block of a model. A subclass with fields overrides it.

        Args:
            config: The model's sizes, such as `sequence_length`, `image_size` and `grid`.
            block: Index of the block, 0…L - 1.

        Raises:
            InputError: The options do not fit the sizes.
        """
        del config, block
        return cls()

    @abc.abstractmethod
    def visible(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """Returns which keys each query attends to, computed with `keras.ops`.

        Two rules apply to every pattern: a causal model hides later positions, and a position
        always sees itself, so that no query is without a key.

        Args:
            query_positions: int32 [q, 1], positions in raster order, 0…n - 1.
            key_positions: int32 [1, k].

        Returns:
            bool, broadcastable to [q, k] or, for a pattern that differs between heads,
            [H, q, k]; None if every query attends to every key.
        """

    def attend(self, query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        """Computes attention of the first m ≤ n positions of a sequence, m static or dynamic.

        A subclass overrides it to compute fewer scores than m².

        Args:
            query: [B, m, H, D].
            key: [B, m, H, D].
            value: [B, m, H, D].
            causal: Whether a position attends only to itself and earlier ones. If not, m = n.

        Returns:
            [B, m, H, D].
        """
        return dot_product_attention(query, key, value, causal, self._visible_or_itself)

    def keys_of(self, positions: Tensor, capacity: Any) -> Tensor | None:
        """Returns the keys that a cached decoder reads, in addition to what `hidden` says of them.

        A subclass overrides it to read fewer than all.

        Args:
            positions: int32 [q], positions of queries.
            capacity: Number of keys that are cached, an integer or an int32 scalar.

        Returns:
            int32 [q, k] or [H, q, k], positions of keys: each key that a query attends to
            once. Others are not read: those below 0 or later than the query. None for all.
        """
        del positions, capacity
        return None

    def num_products(self, length: int, causal: bool) -> int:
        """Returns with how many keys `attend` multiplies a query, including hidden ones.

        Args:
            length: Number of positions, n.
            causal: As for `attend`.
        """
        del causal
        return length

    def num_copies(self) -> int:
        """Returns how many tensors [n, d] `attend` keeps for its gradient, beyond dense attention.

        They are copies of keys and values in another order, and results of parts of the keys.
        """
        return 0

    def hidden(self, query_positions: Tensor, key_positions: Tensor, causal: bool) -> Any:
        """Returns which keys each query does not attend to.

        Args:
            query_positions: int32 [q].
            key_positions: int32 [k].
            causal: Whether a position attends only to itself and earlier ones.

        Returns:
            bool, broadcastable to [H, q, k], or None if no key is hidden.
        """
        return hidden_keys(query_positions, key_positions, causal, self._visible_or_itself)

    def _visible_or_itself(self, queries, keys):
        visible = self.visible(queries, keys)
        return None if visible is None else ops.logical_or(visible, keys == queries)

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
