"""Dense attention."""

import dataclasses

from igpt_keras.network.attention_patterns import AttentionPattern, register_attention_pattern
from igpt_keras.tensors import Tensor


@register_attention_pattern("dense")
@dataclasses.dataclass(frozen=True)
class Dense(AttentionPattern):
    """Every query attends to every key, as in the paper of Image GPT."""

    def visible(self, query_positions: Tensor, key_positions: Tensor) -> None:
        return None


DENSE = Dense()
