"""Size and log-likelihoods of a model whose weights have fewer bits.

    python benchmarks/quantization.py

Prints a Markdown table for the model that comes with the package or for `--model`, on
scikit-learn's two photographs and on parts of them, 80×80 pixels each.
"""

import argparse
import pathlib
import tempfile

import numpy as np
from keras.quantizers import Int8QuantizationConfig
from scipy.special import log_softmax
from sklearn.datasets import load_sample_images

import igpt_keras
from igpt_keras.data import center_square, resize_squares

PART = 80
# The precision of a model, and the arguments of `quantize`.
WAYS = {
    "float32": ("float32", None),
    "bfloat16": ("bfloat16", None),
    '`quantize("int8")`': ("float32", {"mode": "int8"}),
    "int8, inputs stay floating point": (
        "float32",
        {"config": Int8QuantizationConfig(activation_quantizer=None)},
    ),
    '`quantize("int4")`': ("float32", {"mode": "int4"}),
}


def parts_of(image: np.ndarray) -> list[np.ndarray]:
    """Returns the parts of an image [H, W, 3] that lie side by side from the upper left."""
    rows, columns = (size // PART for size in image.shape[:2])
    return [
        image[PART * row : PART * (row + 1), PART * column : PART * (column + 1)]
        for row in range(rows)
        for column in range(columns)
    ]


def file_size(model: igpt_keras.ImageGPT) -> int:
    """Returns the bytes of the weights in a model folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = model.save_to_preset(pathlib.Path(folder, "model"))
        return (path / "model.weights.h5").stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", default="image_gpt_nano")
    arguments = parser.parse_args()

    photographs = load_sample_images().images
    exact = igpt_keras.ImageGPT.from_preset(arguments.model, dtype="float32")
    size = exact.config.image_size
    parts = [part for image in photographs for part in parts_of(image)]
    squares = [center_square(image) for image in photographs]
    whole, parts = (resize_squares(images, size) for images in (squares, parts))
    tokens = exact.tokenizer.tokenize(whole)
    expected = log_softmax(np.asarray(exact(tokens)), axis=-1)
    print(f"| weights | file, bytes | china.jpg | flower.jpg | {len(parts)} parts | KL |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (dtype, settings) in WAYS.items():
        model = igpt_keras.ImageGPT.from_preset(arguments.model, dtype=dtype)
        if settings is not None:
            model.quantize(**settings)
        found = log_softmax(np.asarray(model(tokens)), axis=-1)
        divergence = (np.exp(expected) * (expected - found)).sum(axis=-1).mean()
        nats = [-model.score(images) / tokens.shape[1] for images in (whole, parts)]
        cells = [f"{file_size(model):,}", *(f"{value:.4f}" for value in (*nats[0], nats[1].mean()))]
        print(f"| {name} | {' | '.join(cells)} | {divergence:.5f} |", flush=True)


if __name__ == "__main__":
    main()
