"""Completes images with the published Image GPT weights, and checks their published test loss.

OpenAI published S, M and L as TensorFlow 1 checkpoints (`model.ckpt-1000000.*` with
`kmeans_centers.npy` next to them), and Hugging Face hosts them as `openai/imagegpt-small`,
`-medium` and `-large`. With the ImageNet test images (the official validation set) in a folder,
the test loss should come out near the published 2.0895 (S), 2.0614 (M) or 2.0466 (L) nats per
pixel.

    python examples/openai_weights.py path/to/model.ckpt-1000000 --images photos --complete 4
    python examples/openai_weights.py hf://openai/imagegpt-small --images photos --complete 4
    python examples/openai_weights.py hf://openai/imagegpt-small --data tfds:imagenet2012 --evaluate
"""

import argparse
import pathlib

import numpy as np

import igpt_keras
from igpt_keras.pictures import completion_sheet, known_rows

PUBLISHED = {24: 2.0895, 36: 2.0614, 48: 2.0466}  # by number of layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="checkpoint prefix, Hugging Face folder or hf://… address")
    parser.add_argument("--images", type=pathlib.Path, help="folder of images to complete")
    parser.add_argument("--complete", type=int, default=4, help="number of images to complete")
    parser.add_argument("--data", help="images to evaluate, such as tfds:imagenet2012")
    parser.add_argument("--evaluate", action="store_true", help="measure the test loss")
    parser.add_argument("--limit", type=int, help="evaluate only this many test images")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("completions.png"))
    arguments = parser.parse_args()

    model = igpt_keras.ImageGPT.from_preset(arguments.model)
    size = model.config.image_size
    print(f"{model.count_params():,} parameters, {size}×{size} pixels")
    if arguments.evaluate:
        test = igpt_keras.open_data(arguments.data).test
        images = igpt_keras.data.read_images(
            test, size, augmentation="imagenet", limit=arguments.limit
        ).images
        model.compile()
        loss = model.evaluate(images, batch_size=8, return_dict=True)["loss"]
        published = PUBLISHED.get(model.config.num_layers)
        print(f"test loss {loss:.4f} nats per pixel (published: {published})")
    if arguments.images:
        paths = sorted(path for path in arguments.images.iterdir() if path.is_file())
        originals = np.stack(
            [igpt_keras.data.read_image(path, size) for path in paths[: arguments.complete]]
        )
        completions = model.generate(originals, keep_rows=size // 2, num_completions=4, seed=0)
        known = known_rows(size, keep_rows=size // 2)
        completion_sheet(originals, completions.images, known).save(arguments.output)
        print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
