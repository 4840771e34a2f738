"""Dense attention."""

import dataclasses
from typing import Any

from igpt_keras.network.attention_patterns import AttentionPattern, register_attention_pattern


@register_attention_pattern("dense")
@dataclasses.dataclass(frozen=True)
class Dense(AttentionPattern):
    """Every query attends to every key, as in the paper."""

    def visible(self, query_positions: Any, key_positions: Any) -> None:
        return None


DENSE = Dense()
