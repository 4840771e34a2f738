import subprocess
import sys

import numpy as np
import pytest

from igpt_keras import InputError
from igpt_keras.sampling.requests import check_keep_rows, check_positive, completion_seeds


def test_completion_seeds_are_distinct():
    seeds = completion_seeds(0, 50, 40)
    assert len(np.unique(seeds)) == 2000
    assert seeds.min() >= 0


def test_completion_seeds_depend_on_the_image_and_the_number_only():
    seeds = completion_seeds([5, 9], 2, 3)
    np.testing.assert_array_equal(seeds[1:], completion_seeds(9, 1, 3))
    np.testing.assert_array_equal(seeds[:, :1], completion_seeds([5, 9], 2, 1))


@pytest.mark.parametrize("value", [0, -1, 1.0, True, None])
def test_counts_are_integers_of_at_least_one(value):
    check_positive("count", np.int64(1))
    with pytest.raises(InputError, match=f"count must be an integer >= 1, got {value}"):
        check_positive("count", value)


@pytest.mark.parametrize("value", [-1, 1 << 31, 2.0, False])
def test_rows_are_integers_of_32_bits(value):
    check_keep_rows((1 << 31) - 1)
    with pytest.raises(InputError, match=f"keep_rows must be an integer >= 0, got {value}"):
        check_keep_rows(value)


def test_requests_and_samplers_need_neither_keras_nor_tensorflow():
    code = """
import sys
from igpt_keras.sampling.requests import completion_seeds
from igpt_keras.sampling.samplers import Categorical
Categorical(0.5, top_k=3).arrays(completion_seeds(0, 2, 3).size)
print(sorted({"keras", "tensorflow"} & set(sys.modules)))
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[]\n"
