"""Compiled functions of a model, kept by the model itself."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

# Graphs with other drafts, samplers or row counts than the last ones are compiled again.
MAX_GRAPHS = 16

P = ParamSpec("P")
M = TypeVar("M")
T = TypeVar("T")


def kept_by_model(make: Callable[Concatenate[M, P], T]) -> Callable[Concatenate[M, P], T]:
    """Caches what a function `make(model, …)` returns, in the model.

    A compiled function refers to the variables of its model. So the model owns it, as part of
    its attribute `_sampling_graphs`, and both are freed together. The `MAX_GRAPHS` results
    used last are kept. Arguments other than the model must be hashable.
    """

    @functools.wraps(make)
    def get(model, *arguments, **settings):
        if not hasattr(model, "_sampling_graphs"):
            model._sampling_graphs = functools.lru_cache(MAX_GRAPHS)(
                lambda make, *arguments, **settings: make(model, *arguments, **settings)
            )
        return model._sampling_graphs(make, *arguments, **settings)

    return get


def forget_graphs(model: Any) -> None:
    """Drops the cached functions of a model whose layers compute something else from now on."""
    if hasattr(model, "_sampling_graphs"):
        model._sampling_graphs.cache_clear()
