"""What objects of the package look like at a prompt: short, and one line."""

import numpy as np
import pytest

import igpt_keras
from igpt_keras.evaluation.probes import LinearProbe
from igpt_keras.runs import DataOptions, Pretrain, Sample
from igpt_keras.runs.result import Result
from igpt_keras.sampling.samplers import TopP
from serving.client import Classifications

SIZES = {"image_size": 4, "num_layers": 1, "hidden_dim": 16, "num_heads": 1}
LOGITS = np.zeros((5, 2), np.float32)


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (
            igpt_keras.Completions(
                images=np.zeros((2, 3, 4, 4, 3), np.uint8),
                tokens=np.zeros((2, 3, 16), np.int32),
                log_likelihood=np.zeros((2, 3), np.float32),
                num_forward_passes=9,
            ),
            "Completions(images=uint8[2, 3, 4, 4, 3], tokens=int32[2, 3, 16], "
            "log_likelihood=float32[2, 3], num_forward_passes=9)",
        ),
        (
            igpt_keras.ImageGPTConfig(4, 8, 16, 1, 1),
            "ImageGPTConfig(image_size=4, vocabulary_size=8, hidden_dim=16, num_layers=1, "
            "num_heads=1)",
        ),
        (
            igpt_keras.ImageGPTConfig(4, 8, 16, 1, 1, use_bias=True, grid=(2, 2)),
            "ImageGPTConfig(image_size=4, vocabulary_size=8, hidden_dim=16, num_layers=1, "
            "num_heads=1, use_bias=True, grid=(2, 2))",
        ),
        (
            igpt_keras.ColorPalette(np.zeros((512, 3)), 32),
            "<ColorPalette: 512 tokens, images of 32×32>",
        ),
        (
            igpt_keras.ColorPalette(np.zeros((8, 3))),
            "<ColorPalette: 8 tokens, images of any size>",
        ),
        (
            Pretrain.Settings(**SIZES, steps=3),
            "Settings(image_size=4, num_layers=1, hidden_dim=16, num_heads=1, steps=3)",
        ),
        (
            Sample.Settings(model="m", sampler=TopP(0.9)),
            "SampleSettings(model='m', sampler=TopP(p=0.9, temperature=1.0))",
        ),
        (DataOptions("digits"), "DataOptions(data=('digits',))"),
        (
            Result("pretrain", "igpt …", {"path": "runs/ar"}, {}, {}, {"loss": 1 / 3, "all": [1]}),
            "<Result of pretrain runs/ar, loss 0.33333>",
        ),
        (
            Classifications(["cat", "dog"], LOGITS, LOGITS),
            "Classifications(class_names=['cat', 'dog'], scores=float32[5, 2], "
            "logits=float32[5, 2])",
        ),
        (
            LinearProbe(np.zeros((4, 2)), np.zeros(2), setting={"C": 1.0}, validation_accuracy=0.5),
            "LinearProbe(setting={'C': 1.0}, validation_accuracy=0.5, weights=float64[4, 2], "
            "bias=float64[2])",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_prompt_shows_one_short_line(thing, expected):
    assert repr(thing) == expected


def test_a_run_shows_its_folder(tmp_path):
    run = Pretrain(Pretrain.Settings(**SIZES, steps=1), DataOptions("digits"), tmp_path, "")
    assert repr(run) == f"<Pretrain {str(tmp_path)!r}>"
