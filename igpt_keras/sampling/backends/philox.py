"""The generator of random bits Philox4x32-10, seeded as TensorFlow's stateless generators.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011,
https://doi.org/10.1145/2063384.2063405, table 2 and section 3.3. It maps a counter of four words
and a key of two to four random words; a word is a uint32. TensorFlow makes counter and key of two
seeds int64 by one application with a fixed key (`tensorflow/core/kernels/stateless_random_ops.cc`,
`GenerateKey`), and counts from there.
"""

from typing import Any

import jax.numpy as jnp

from igpt_keras.tensors import Tensor

NUM_ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
SEEDING_KEY = (0x3EC8F720, 0x02461E29)

Words = tuple[Any, ...]
"""Tensors uint32 that can be broadcast against each other."""


def random_bits(seeds: Words, count: int) -> Tensor:
    """Returns what `tf.random.stateless_uniform(alg="philox")` draws from all of uint32.

    Args:
        seeds: The low and the high word of the first seed, and the second seed, which has one
            word. Their shapes are broadcast to [...].
        count: The number of words to draw, below 2³⁴.

    Returns:
        uint32 [..., count].
    """
    mixed = philox((*seeds, _word(0)), tuple(map(_word, SEEDING_KEY)))
    key, counter = (tuple(word[..., None] for word in words) for words in (mixed[:2], mixed[2:]))
    numbers = jnp.arange(-(-count // 4), dtype=jnp.uint32)
    words = philox((numbers, _word(0), *counter), key)
    return jnp.stack(words, axis=-1).reshape(*words[0].shape[:-1], -1)[..., :count]


def philox(counter: Words, key: Words) -> Words:
    """Returns the four random words of a counter of four words and a key of two."""
    for _ in range(NUM_ROUNDS):
        (high_0, low_0), (high_1, low_1) = (
            _product(multiplier, word)
            for multiplier, word in zip(MULTIPLIERS, counter[::2], strict=True)
        )
        counter = (high_1 ^ counter[1] ^ key[0], low_1, high_0 ^ counter[3] ^ key[1], low_0)
        key = tuple(
            word + _word(increment) for word, increment in zip(key, KEY_INCREMENTS, strict=True)
        )
    return counter


def _word(value: int) -> Tensor:
    return jnp.uint32(value)


def _product(multiplier: int, words: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the high and the low word of products, computed by half words: JAX has no uint64."""
    half, mask = _word(16), _word(0xFFFF)
    a_low, a_high = _word(multiplier & 0xFFFF), _word(multiplier >> 16)
    b_low, b_high = words & mask, words >> half
    middle = a_high * b_low + (a_low * b_low >> half)
    other = a_low * b_high + (middle & mask)
    return a_high * b_high + (middle >> half) + (other >> half), _word(multiplier) * words
