"""What sampling needs of Keras' backend that `keras.ops` does not offer, or not as cheaply.

Everything else of sampling is written with `keras.ops`, once for all backends.

| name | what it is |
| --- | --- |
| `ALWAYS_XLA` | whether XLA compiles every function, which then needs fixed shapes |
| `TensorSpec` | shape and dtype of an argument, None where a size varies |
| `compile_function` | a function compiled for repeated calls, which sees the weights of each call |
| `as_seeds` | seeds of sequences as `random_bits` takes them |
| `random_bits` | random bits that depend on a seed and a row of tokens; the same on every backend |
| `while_loop` | a loop over a structure of tensors |
| `run_blocks` | runs a network's blocks, with a cache of each |
| `writer` | writes positions into caches, in place where that is possible |
| `as_sizes`, `pad` | sizes that several operations share, and padding by them |
| `multiply` | a batched product of small matrices |
| `take`, `pick` | lookups whose indices are known to be in range |
| `argmax`, `exclusive_cumsum` | reductions over the last axis |
"""

from typing import TYPE_CHECKING

import keras

# Of other backends, `checks.check_backend` says that they cannot sample.
if TYPE_CHECKING or keras.backend.backend() != "jax":
    from igpt_keras.sampling.backends import on_tensorflow as backend
else:
    from igpt_keras.sampling.backends import on_jax as backend

__all__ = ["backend"]
