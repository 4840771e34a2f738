"""Samplers: the distribution that each token is drawn from, given the model's logits.

A sampler is a frozen dataclass whose fields are numbers, with one method, `filter_logits`. The
draw itself is not part of it (`igpt_keras.sampling.gumbel`): that makes completions independent
of the batch, of drafts, and of whether a server computes them.

The fields describe themselves (`Sampler.parameters`): the inputs of an exported model, the
arguments of a client and the options of the command line are derived from them. This module
imports Keras only when logits are filtered.

Example:
    ```python
    import dataclasses

    from keras import ops

    from igpt_keras.sampling.samplers import Sampler, parameter, register_sampler

    @register_sampler("min_p")
    @dataclasses.dataclass(frozen=True)
    class MinP(Sampler):
        p: float = parameter(0.1, maximum=1)

        def filter_logits(self, logits):
            probabilities = ops.softmax(logits)
            p = ops.reshape(self.p, (-1, 1))  # one for each sequence
            least = p * ops.max(probabilities, axis=-1, keepdims=True)
            return ops.where(probabilities >= least, logits, float("-inf"))
    ```
"""

# Keras declares that its functions may return None.
# pyright: reportOptionalSubscript=false, reportOptionalOperand=false
# pyright: reportOptionalMemberAccess=false

import abc
import dataclasses
import math
import typing
from collections.abc import Callable
from typing import Any

import numpy as np

from igpt_keras.errors import InputError
from igpt_keras.registry import Registry
from igpt_keras.tensors import Tensor

_DTYPES = {float: np.dtype(np.float32), int: np.dtype(np.int32)}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A field of a sampler.

    Attributes:
        name: The name of the field.
        type: `float` or `int`.
        default: The default value, or `dataclasses.MISSING`.
        minimum: The smallest value.
        maximum: The largest value.
        is_open: Whether `minimum` itself is excluded.
        note: What a special value means, for error messages.
        help: One sentence for the command line and API reference.
    """

    name: str
    type: type
    default: Any
    minimum: float
    maximum: float
    is_open: bool
    note: str
    help: str

    @property
    def dtype(self) -> np.dtype:
        """The dtype in graphs and on the wire: float32 or int32."""
        return _DTYPES[self.type]

    @property
    def requirement(self) -> str:
        """What a value must be, such as "finite and >= 0"."""
        least = f"above {self.minimum}" if self.is_open else f">= {self.minimum}"
        if self.maximum < math.inf:
            return f"{least} and at most {self.maximum}{self.note}"
        return f"{'finite and' if self.type is float else 'an integer'} {least}{self.note}"

    def allows(self, value: Any) -> Any:
        """Returns whether `value` is in range, elementwise for an array or a tensor."""
        # Python compares its numbers with integers of any size.
        largest = float(np.finfo(np.float32).max) if self.type is float else 2**31 - 1
        above = value > self.minimum if self.is_open else value >= self.minimum
        return above & (value <= min(self.maximum, largest))

    def check(self, value: Any) -> None:
        """Raises `InputError` for a number that is not allowed."""
        types = int | np.integer | (float | np.floating if self.type is float else int)
        if not isinstance(value, types) or isinstance(value, bool) or not self.allows(value):
            raise InputError(f"{self.name} must be {self.requirement}, got {value}")


def parameter(
    default: Any = dataclasses.MISSING,
    *,
    minimum: float = 0,
    maximum: float = math.inf,
    is_open: bool = False,
    note: str = "",
    help: str = "",
) -> Any:
    """Returns a dataclass field for a sampler. Arguments: see `Parameter`."""
    limits = {"minimum": minimum, "maximum": maximum, "is_open": is_open}
    return dataclasses.field(default=default, metadata={**limits, "note": note, "help": help})


@dataclasses.dataclass(frozen=True)
class Sampler(abc.ABC):
    """The base class of samplers.

    A subclass is a frozen dataclass. Its fields, made by `parameter`, are annotated `float` or
    `int`. In a graph each may be a tensor [B] instead, one value per sequence.

    Raises:
        InputError: A field is out of range.
    """

    @abc.abstractmethod
    def filter_logits(self, logits: Tensor) -> Tensor:
        """Returns the logits of the distribution that tokens are drawn from.

        Write it with `keras.ops`: it becomes a part of the compiled decoder, on any backend.

        Args:
            logits: float32 [B, V], the model's.

        Returns:
            float32 [B, V], -inf for tokens that are never drawn.
        """

    @property
    def is_greedy(self) -> Any:
        """Whether the model's most probable token is taken instead of a draw: bool or bool [B].

        True where the sampler's field `temperature`, if it has one, is 0.
        """
        return getattr(self, "temperature", 1.0) == 0

    @classmethod
    def parameters(cls) -> list[Parameter]:
        """Returns a description of each field."""
        types = typing.get_type_hints(cls)
        return [
            Parameter(
                name=field.name, type=types[field.name], default=field.default, **field.metadata
            )
            for field in dataclasses.fields(cls)
        ]

    def arrays(self, count: int) -> dict[str, np.ndarray]:
        """Returns the value of each field `count` times: arrays [count] of the fields' dtypes."""
        return {p.name: np.full(count, getattr(self, p.name), p.dtype) for p in self.parameters()}

    def map(self, function: Callable[[Any], Any]) -> "Sampler":
        """Returns the sampler whose fields are `function` of this sampler's fields."""
        names = [field.name for field in dataclasses.fields(self)]
        return type(self)(**{name: function(getattr(self, name)) for name in names})

    def __post_init__(self):
        for field in self.parameters():
            value = getattr(self, field.name)
            # Only numbers can be checked here; a tensor's values may not be known yet.
            if not hasattr(value, "shape") or isinstance(value, np.generic):
                field.check(value)


_SAMPLERS: Registry[type[Sampler]] = Registry("sampler")
register_sampler = _SAMPLERS.register
get_sampler = _SAMPLERS.get
sampler_names = _SAMPLERS.names


def _temperature() -> Any:
    return parameter(
        1.0, help="Sampling temperature: divides the logits; 0 takes the most probable color."
    )


@register_sampler("categorical")
@dataclasses.dataclass(frozen=True)
class Categorical(Sampler):
    """Draws from the model's distribution, with temperature, then top-k, then top-p.

    Args:
        temperature: Divides the logits; 0 takes the most probable token.
        top_k: Keep the `top_k` most probable tokens; 0 keeps all.
        top_p: Of those, keep the fewest whose probabilities sum to at least `top_p`. A token as
            probable as one that is kept is kept too.

    Example:
        ```python
        completions = model.generate(images, keep_rows=16, sampler=Categorical(0.9, top_k=100))
        ```
    """

    temperature: float = _temperature()
    top_k: int = parameter(
        0,
        note=" (0 for all colors)",
        help="Top-k sampling: keep the K most probable colors; 0 keeps all.",
    )
    top_p: float = parameter(
        1.0,
        maximum=1,
        is_open=True,
        help="Nucleus sampling: keep the smallest set of colors whose probabilities sum to P.",
    )

    def filter_logits(self, logits: Tensor) -> Tensor:
        return _keep_most_probable(_divide(logits, self.temperature), self.top_k, self.top_p)


@register_sampler("greedy")
@dataclasses.dataclass(frozen=True)
class Greedy(Sampler):
    """Takes the most probable token; of equally probable tokens the one of lowest index.

    Example:
        ```python
        completions = model.generate(images, keep_rows=16, sampler=Greedy())
        ```
    """

    @property
    def is_greedy(self) -> bool:
        return True

    def filter_logits(self, logits: Tensor) -> Tensor:
        return logits


@register_sampler("top_k")
@dataclasses.dataclass(frozen=True)
class TopK(Sampler):
    """Draws from the k most probable tokens.

    Args:
        k: How many tokens to keep, and those as probable as the last of them.
        temperature: Divides the logits; 0 takes the most probable token.

    Example:
        ```python
        completions = model.generate(images, keep_rows=16, sampler=TopK(100))
        ```
    """

    k: int = parameter(minimum=1, help="Keep the K most probable colors.")
    temperature: float = _temperature()

    def filter_logits(self, logits: Tensor) -> Tensor:
        return _keep_most_probable(_divide(logits, self.temperature), self.k, 1.0)


@register_sampler("top_p")
@dataclasses.dataclass(frozen=True)
class TopP(Sampler):
    """Nucleus sampling: draws from the fewest tokens whose probabilities sum to at least p.

    Args:
        p: The probability that the kept tokens have together, at least. A token as probable as
            one that is kept is kept too.
        temperature: Divides the logits, before tokens are dropped; 0 takes the most probable.

    Example:
        ```python
        completions = model.generate(images, keep_rows=16, sampler=TopP(0.9))
        ```
    """

    p: float = parameter(
        maximum=1,
        is_open=True,
        help="Keep the smallest set of colors whose probabilities sum to P.",
    )
    temperature: float = _temperature()

    def filter_logits(self, logits: Tensor) -> Tensor:
        return _keep_most_probable(_divide(logits, self.temperature), 0, self.p)


def _divide(logits, temperature):
    """Logits [B, V] divided by the temperature, unchanged where that is 0."""
    from keras import ops

    temperature = _per_sequence(temperature, logits, "float32")
    return logits / ops.where(temperature == 0, 1.0, temperature)[:, None]


def _keep_most_probable(logits, top_k, top_p):
    """Logits [B, V], with -inf for tokens outside the top k and then the top p."""
    from keras import ops

    from igpt_keras.sampling.backends import backend

    top_k = _per_sequence(top_k, logits, "int32")
    top_p = _per_sequence(top_p, logits, "float32")

    def keep():
        vocabulary_size = logits.shape[-1]
        descending = ops.top_k(logits, vocabulary_size)[0]
        last_of_k = ops.where(top_k == 0, vocabulary_size, ops.minimum(top_k, vocabulary_size)) - 1
        least = backend.pick(descending, last_of_k)[:, None]
        probabilities = ops.softmax(ops.where(descending >= least, descending, -np.inf))
        mass_before = backend.exclusive_cumsum(probabilities)
        in_mass = (mass_before < top_p[:, None]) | (top_p == 1)[:, None]
        in_mass &= descending >= least
        last_of_mass = ops.sum(ops.cast(in_mass, "int32"), axis=-1) - 1
        least = backend.pick(descending, last_of_mass)[:, None]
        return ops.where(logits >= least, logits, -np.inf)

    # Sorting is the dearest part of a step, so it is skipped where nothing is dropped.
    return ops.cond(ops.any((top_k > 0) | (top_p < 1)), keep, lambda: logits)


def _per_sequence(value, logits, dtype):
    """A number or tensor [B] as a tensor [B], for logits [B, V]."""
    from keras import ops

    values: Any = ops.cast(value, dtype)
    return values if len(values.shape) else ops.broadcast_to(values, ops.shape(logits)[:1])
