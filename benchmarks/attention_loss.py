"""Losses of dense, strided and fixed attention at equal steps and at equal time.

    python benchmarks/attention_loss.py runs/digits --data digits --image-size 8 --steps 1600
    python benchmarks/attention_loss.py runs/cifar10 --data tfds:cifar10 --preset image_gpt_tiny \\
        --steps 4000 --augmentation cifar

All arguments but the first are those of `igpt pretrain`. Each pattern trains in a process of its
own, one after the other, into a folder of its own; a run that has finished is not run again.
Then `benchmarks/attention.py` measures a step of each pattern, in turns. "At equal time" is the
validation loss of the last evaluation before the fastest pattern ends. No schedule ends there,
so it is above what a shorter one reaches.
"""

import argparse
import json
import pathlib
import subprocess
import sys

from attention import PATTERNS, Sizes, measure


def train(folder: pathlib.Path, attention: str, arguments: list[str]) -> dict:
    """Returns the result of a run, which this runs unless it has finished."""
    result = folder / "result.json"
    if not result.exists():
        words = [sys.executable, "-m", "igpt_keras", "pretrain", "--attention", attention]
        subprocess.run([*words, "--output", str(folder), *arguments], check=True)
    return json.loads(result.read_text(encoding="utf-8"))


def step_seconds(settings: dict, rounds: int) -> dict[str, float]:
    """Returns the least seconds of a step of each pattern, given a run's settings."""
    names = ("num_layers", "hidden_dim", "num_heads", "num_colors", "batch_size")
    sizes = Sizes(**{name: settings[name] for name in names})
    image_size = settings["image_size"]
    found = measure("training", [image_size], sizes, steps=10, rounds=rounds)
    return {name: found[name, image_size].seconds for name in PATTERNS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="folder of the runs")
    parser.add_argument("--rounds", type=int, default=3, help="processes that time each pattern")
    options, arguments = parser.parse_known_args()
    results = {name: train(options.folder / name, name, arguments) for name in PATTERNS}
    seconds = step_seconds(results["dense"]["settings"], options.rounds)
    histories = {}
    for name, result in results.items():
        history = result["metrics"]["history"]
        histories[name] = list(zip(history["step"], history["val_loss"], strict=True))
    budget = min(histories[name][-1][0] * each for name, each in seconds.items())
    print("| attention | steps | ms a step | loss | steps in equal time | loss |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, history in histories.items():
        steps, loss = history[-1]
        in_time = [each for each in history if each[0] * seconds[name] <= budget]
        then, loss_then = in_time[-1] if in_time else ("none", float("nan"))
        print(
            f"| {name} | {steps:,} | {1000 * seconds[name]:.0f} | {loss:.4f} | {then} "
            f"| {loss_then:.4f} |"
        )


if __name__ == "__main__":
    main()
