"""What training needs of the memory, against measured peaks."""

import dataclasses
import json
import subprocess
import sys

import pytest

from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.training.memory import (
    Layout,
    alternatives,
    available_bytes,
    gigabytes,
    state_bytes,
    trained_parameters,
)

SIZES = [
    {"image_size": 16, "vocabulary_size": 64, "hidden_dim": 256, "num_layers": 6, "num_heads": 4},
    {"image_size": 24, "vocabulary_size": 64, "hidden_dim": 128, "num_layers": 4, "num_heads": 8},
]
MERGED = {"attention": "strided", "attention_layers": ["merged"]}
# Prints the peak of resident memory, in KiB, above that before training. (`ru_maxrss` would begin
# with the memory of the process that starts this one.)
IMPORTS = """
import json, pathlib, re, sys
import numpy as np
from igpt_keras import ImageGPT, ImageGPTClassifier, ImageGPTConfig

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

"""
PEAK = (
    IMPORTS
    + """
sizes, batch_size, micro_batches, remat = json.loads(sys.argv[1])
config = ImageGPTConfig(**sizes)
shape = (2 * batch_size, config.sequence_length)
tokens = np.random.default_rng(0).integers(0, config.vocabulary_size, shape).astype(np.int32)
before = peak()
model = ImageGPT(config)
model.compile(micro_batches=micro_batches, remat=remat, jit_compile=False)
model.fit(tokens, batch_size=batch_size, verbose=0)
print(peak() - before)
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [*SIZES, {**SIZES[1], **MERGED}])
@pytest.mark.parametrize(("micro_batches", "remat"), [(1, False), (8, False), (1, True)])
def test_a_measured_peak_stays_below_what_is_computed_and_near_it(sizes, micro_batches, remat):
    arguments = json.dumps([sizes, 32, micro_batches, remat])
    process = subprocess.run(
        [sys.executable, "-c", PEAK, arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    measured = 1024 * int(process.stdout)
    computed = Layout(32, micro_batches, remat).training_bytes(ImageGPTConfig(**sizes))
    # A graph, its threads and their buffers, of any size.
    assert 0.5 * computed < measured < computed + 0.35e9


FROZEN = (
    IMPORTS
    + """
config = ImageGPTConfig(24, 64, hidden_dim=64, num_layers=6, num_heads=4)
tokens = np.random.default_rng(0).integers(0, 64, (16, 576)).astype(np.int32)
classifier = ImageGPTClassifier(config, 10)
before = peak()
classifier.freeze_blocks(int(sys.argv[1]))
classifier.compile(jit_compile=False)
classifier.fit(tokens, np.arange(16) % 10, batch_size=16, verbose=0)
print(peak() - before)
"""
)


@pytest.mark.slow
def test_activations_of_frozen_blocks_are_not_kept():
    measured = [
        int(subprocess.check_output([sys.executable, "-c", FROZEN, str(count)], text=True))
        for count in (0, 5)
    ]
    # The blocks that train keep most of the memory: six of them, or one.
    assert measured[1] < measured[0] / 2


@pytest.fixture
def config():
    return ImageGPTConfig(**SIZES[0])


def test_only_what_trains_has_a_gradient_and_moments(config):
    d, layers, count = config.hidden_dim, config.num_layers, config.parameter_count()
    assert trained_parameters(config, None, 0, 10) is None
    adapters = trained_parameters(config, 4, 1, 10)
    assert adapters == (layers - 1) * 4 * 16 * d + 10 * d
    saved = state_bytes(config, mixed=False) - state_bytes(config, False, adapters)
    assert saved == 12 * (count - adapters)
    whole, part = (Layout(24, trained=n).training_bytes(config) for n in (None, adapters))
    # In training, and Adam's moments in the copies of a checkpoint.
    assert whole - part >= saved
    frozen = trained_parameters(config, None, layers, 10)
    assert frozen == config.parameter_count(num_classes=10) - layers * 12 * d * d


@pytest.mark.parametrize("remat", [False, True])
def test_the_fewest_micro_batches_that_fit_are_chosen(config, remat):
    layout = Layout(24, remat=remat)
    needs = {
        parts: dataclasses.replace(layout, micro_batches=parts).training_bytes(config)
        for parts in (1, 2, 3, 4, 6, 8, 12, 24)
    }
    assert min(needs, key=lambda parts: needs[parts]) > 1
    for available in [*needs.values(), 10**12]:
        fits = [parts for parts, need in needs.items() if need <= available]
        assert layout.fitting(config, available).micro_batches == min(fits)
    assert layout.fitting(config, min(needs.values()) - 1) is None


def test_smaller_images_have_a_number_of_tokens_that_the_stride_divides(config):
    sparse = dataclasses.replace(config, attention="strided", stride=32)
    found = alternatives(sparse, Layout(24), Layout(24).training_bytes(sparse) // 2)
    assert any(setting.startswith("image_size=8 ") for setting in found)


def test_only_a_token_for_each_pixel_goes_with_smaller_images(config):
    """The tokens of other tokenizers do not follow from the image size."""
    rgb = dataclasses.replace(config, grid=(config.image_size, 3 * config.image_size))
    found = alternatives(rgb, Layout(24), Layout(24).training_bytes(rgb) // 2)
    assert len(found) >= 2
    assert not any(setting.startswith("image_size=") for setting in found)


def test_every_alternative_fits(config):
    layout = Layout(24)
    # Here even one image at a time takes more than a checkpoint's copies, so less helps.
    long = dataclasses.replace(config, image_size=48, hidden_dim=64)
    least = min(each.training_bytes(long) for each in layout.divided())
    for sizes, available in ((config, layout.training_bytes(config) // 2), (long, least - 1)):
        found = alternatives(sizes, layout, available)
        assert len(found) >= 2
        for setting in found:
            number, unit = setting.rpartition("(")[2].removesuffix(")").split()
            scale = {"GB": 1e9, "MB": 1e6}[unit]
            assert float(number) * scale <= available + 0.05 * scale
    assert alternatives(config, layout, 0) == []


def test_replicas_of_a_host_share_its_memory(config):
    one, four = Layout(8), Layout(32, replicas=4)
    assert four.training_bytes(config) == pytest.approx(4 * one.training_bytes(config))


def test_available_memory_is_that_of_the_host():
    with open("/proc/meminfo") as lines:
        total = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    assert 0 < available_bytes() <= 1024 * total


def test_a_small_size_is_told_in_megabytes():
    assert [gigabytes(size) for size in (12_340_000, 99_000_000, 2_140_000_000)] == [
        "12.3 MB",
        "99.0 MB",
        "2.1 GB",
    ]
