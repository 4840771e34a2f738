"""A package outside of igpt-keras adds a sampler, a source and a probe method to the CLI."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

PLUGIN = '''
import dataclasses

import numpy as np
import tensorflow as tf

from igpt_keras.data import ArraySplit, Source, register_source
from igpt_keras.evaluation.probe_methods import METHODS, ProbeMethod
from igpt_keras.evaluation.probes import LinearProbe
from igpt_keras.sampling.samplers import Sampler, parameter, register_sampler


@register_sampler("constant")
@dataclasses.dataclass(frozen=True)
class Constant(Sampler):
    color: int = parameter(help="Index of the only color.")

    def filter_logits(self, logits):
        only = tf.one_hot(self.color, logits.shape[-1], on_value=True, off_value=False)
        return tf.where(only, logits, -np.inf)


@register_source("halves")
def open_halves(location):
    """Opens images of which the left or the right half is white."""
    size = int(location)

    def split(name, count):
        labels = np.arange(count) % 2
        images = np.zeros((count, size, size, 3), np.uint8)
        images[labels == 0, :, : size // 2] = 255
        images[labels == 1, :, size // 2 :] = 255
        return ArraySplit(f"halves, {name}", images, labels)

    return Source(split("train", 40), test=split("test", 10), class_names=["left", "right"])


@METHODS.register("centroids")
@dataclasses.dataclass(frozen=True)
class Centroids(ProbeMethod):
    """Classifies by the nearest mean of the features of a class."""

    def fits(self, train, num_classes):
        x = np.concatenate(list(train.read_all()))
        means = np.stack([x[train.labels == c].mean(axis=0) for c in range(num_classes)], axis=1)
        yield LinearProbe(
            means, -(means**2).sum(axis=0) / 2, setting={"centroids": num_classes}
        )

    def with_setting(self, setting):
        return self
'''


@pytest.fixture
def igpt_with_plugin(tmp_path):
    """Runs the command line in a process that has the plug-in's package installed."""
    site = tmp_path / "site"
    metadata = site / "halves_plugin-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "halves_plugin.py").write_text(PLUGIN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: halves-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[igpt_keras.plugins]\nhalves = halves_plugin\n")
    path = os.pathsep.join([str(site), os.getcwd(), os.environ.get("PYTHONPATH", "")])

    def run(*arguments):
        result = subprocess.run(
            [sys.executable, "-m", "igpt_keras", *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        return result.returncode, result.stdout, result.stderr

    return run


@pytest.mark.slow
def test_a_sampler_with_its_option(igpt_with_plugin, pretrained, tmp_path, palette):
    model, output = pretrained("ar"), tmp_path / "samples"
    arguments = ("sample", "--model", model, "--num-samples", 1, "--output", output)
    status, _, errors = igpt_with_plugin(*arguments, "--sampler", "constant", "--color", 3)
    assert status == 0, errors
    pixels = np.asarray(Image.open(output / "000.png")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) == 1
    status, _, errors = igpt_with_plugin(*arguments, "--sampler", "constant")
    assert (status, errors.count("\n")) == (2, 1)
    assert "Missing option '--color'" in errors
    status, _, errors = igpt_with_plugin(*arguments, "--sampler", "unheard-of")
    assert status == 2
    assert "sampler must be one of categorical, constant, greedy, top_k, top_p" in errors


@pytest.mark.slow
def test_a_source_and_a_probe_method(igpt_with_plugin, pretrained, tmp_path):
    output = tmp_path / "probe"
    data = ("--data", "halves:4", "--output", output)
    status, printed, errors = igpt_with_plugin(
        "probe", pretrained("ar"), *data, "--method", "centroids", "--baseline", "pixels"
    )
    assert status == 0, errors
    result = json.loads((output / "result.json").read_text())
    # The two classes are two points, each nearest to its own mean.
    assert result["metrics"]["layers"][0]["test_accuracy"] == 1
    assert result["data"]["test"] == 10
    assert "centroids" in printed
