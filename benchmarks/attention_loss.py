"""Losses of dense, strided and fixed attention at equal steps and at equal time.

    python benchmarks/attention_loss.py runs/digits --data digits --image-size 8 --steps 1600
    python benchmarks/attention_loss.py runs/cifar10 --data tfds:cifar10 --preset image_gpt_tiny \\
        --steps 4000 --augmentation cifar

All arguments but the first are those of `igpt pretrain`. Each pattern trains in a process of its
own, one after the other, into a folder of its own; a run that has finished is not run again.
"At equal time" is the validation loss of the last evaluation before the fastest one ends, by
the median speed of each run. No schedule ends there, so it is above what a shorter one reaches.
"""

import argparse
import json
import pathlib
import subprocess
import sys

PATTERNS = ("dense", "strided", "fixed")


def train(folder: pathlib.Path, attention: str, arguments: list[str]) -> dict:
    """Returns the result of a run, which this runs unless it has finished."""
    result = folder / "result.json"
    if not result.exists():
        words = [sys.executable, "-m", "igpt_keras", "pretrain", "--attention", attention]
        subprocess.run([*words, "--output", str(folder), *arguments], check=True)
    return json.loads(result.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="folder of the runs")
    options, arguments = parser.parse_known_args()
    results = {name: train(options.folder / name, name, arguments) for name in PATTERNS}
    speeds, histories = {}, {}
    for name, result in results.items():
        metrics = result["metrics"]
        speeds[name] = metrics["images_per_second"] / result["settings"]["batch_size"]
        history = metrics["history"]
        histories[name] = list(zip(history["step"], history["val_loss"], strict=True))
    budget = min(histories[name][-1][0] / speed for name, speed in speeds.items())
    print("| attention | steps | ms a step | loss | steps in equal time | loss |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, history in histories.items():
        steps, loss = history[-1]
        # Speeds are measured; the fastest run itself ends at its last step.
        in_time = [each for each in history if each[0] <= 1.001 * budget * speeds[name]]
        then, loss_then = in_time[-1] if in_time else ("none", float("nan"))
        print(
            f"| {name} | {steps:,} | {1000 / speeds[name]:.0f} | {loss:.4f} | {then} "
            f"| {loss_then:.4f} |"
        )


if __name__ == "__main__":
    main()
