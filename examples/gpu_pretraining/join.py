"""Joins the parts that train.py wrote into a model folder that `ImageGPT.from_preset` reads.

    python join.py output my-model
    python join.py output my-model --packed packed --images 200

With `--packed`, measures the loss of held-out images in float32 and compares.
"""

import argparse
import pathlib

import numpy as np
from pack import read_tokens

import igpt_keras
from igpt_keras.json_files import read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", type=pathlib.Path, help="the output of train.py")
    parser.add_argument("output", type=pathlib.Path, help="the model folder")
    parser.add_argument("--packed", type=pathlib.Path, help="what pack.py wrote")
    parser.add_argument("--images", type=int, help="held-out images to measure; default: all")
    arguments = parser.parse_args()

    training = read_json(arguments.parts / "training.json")
    model = igpt_keras.ImageGPT(
        igpt_keras.ImageGPTConfig.from_dict(training["config"]),
        training["objective"],
        tokenizer=igpt_keras.ColorPalette.load(arguments.parts / "palette.npy"),
    )
    stored = b"".join((arguments.parts / name).read_bytes() for name in training.pop("parts"))
    weights = np.frombuffer(stored, np.float16)
    ends = np.cumsum([np.prod(variable.shape) for variable in model.trainable_variables])
    if len(weights) != ends[-1]:
        raise SystemExit(f"{len(weights)} weights for a model of {ends[-1]}")
    for variable, values in zip(model.trainable_variables, np.split(weights, ends), strict=False):
        variable.assign(values.reshape(variable.shape))
    print(model.save_to_preset(arguments.output, training=training))
    print("validation nats at the end of training:", training["evaluations"][-1]["validation_nats"])
    if arguments.packed:
        held_out = read_tokens(arguments.packed)[2][: arguments.images]
        model = igpt_keras.ImageGPT.from_preset(arguments.output)
        model.compile()
        print(f"of {len(held_out)} images now:", model.evaluate(held_out, verbose=0)[0])


if __name__ == "__main__":
    main()
