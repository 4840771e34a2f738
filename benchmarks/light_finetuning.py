"""Fine-tuning all weights compared with LoRA and with frozen blocks: memory, time and accuracy.

    python benchmarks/light_finetuning.py
    python benchmarks/light_finetuning.py --accuracy 0
    python benchmarks/light_finetuning.py --layers 12 --only "all weights" "LoRA 4"

Prints a Markdown table. Memory and time are of steps on random tokens with a model of the given
size, each side in a process of its own. Accuracies are of the digits test images, fine-tuned from
one pre-trained model of 4 layers of width 64, with 10 labels of each class and with all of them:
mean and sample standard deviation over as many seeds as `--accuracy` says, 0 for none. Each side
has the learning rate of `RATES` that is best on the validation images with the first seed. CPU
time is that of all threads: unlike wall time it hardly depends on what else the machine is doing.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile

from turns import peak_memory, run_apart, timed

CLASSES = 10
FEW = 10
RATES = (3e-4, 1e-3, 3e-3, 1e-2)


@dataclasses.dataclass(frozen=True)
class Side:
    """What trains; blocks are frozen as a share of all."""

    rank: int | None = None
    frozen: float = 0.0
    remat: bool = False


SIDES = {
    "all weights": Side(),
    "all weights, remat": Side(remat=True),
    "LoRA 4": Side(rank=4),
    "LoRA 4, remat": Side(rank=4, remat=True),
    "LoRA 16": Side(rank=16),
    "LoRA 16, remat": Side(rank=16, remat=True),
    "last half of the blocks": Side(frozen=0.5),
    "last quarter of the blocks": Side(frozen=0.75),
}


def measure_steps(side: Side, arguments: argparse.Namespace) -> dict[str, float]:
    """In a process of its own: parameters, saved bytes, peak memory and CPU seconds of a step."""
    import numpy as np

    import igpt_keras
    from igpt_keras.models.partial_training import count_parameters
    from igpt_keras.training.recipes import adam

    sizes = (arguments.image_size, 64, arguments.hidden_dim, arguments.layers, 8)
    classifier = igpt_keras.ImageGPTClassifier(igpt_keras.ImageGPTConfig(*sizes), CLASSES)
    classifier.freeze_blocks(round(side.frozen * arguments.layers))
    if side.rank is not None:
        classifier.enable_lora(side.rank)
    classifier.compile(adam(1e-3), remat=side.remat)
    shape = (arguments.batch, arguments.image_size**2)
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 64, shape).astype(np.int32)
    labels = generator.integers(0, CLASSES, arguments.batch).astype(np.int32)
    seconds = []
    for _ in range(1 + arguments.steps):
        times = timed(lambda: classifier.train_on_batch(tokens, labels))
        seconds.append(times[0][1])
    trained, _ = count_parameters(classifier)
    # Adapters are saved without the weights that they go with; other classifiers whole.
    saved = 4 * (trained if side.rank is not None else classifier.count_params())
    return {
        "trained": trained,
        "saved": saved,
        "memory": peak_memory(),
        "seconds": statistics.median(seconds[1:]),
    }


def pretrain(folder: pathlib.Path, epochs: int) -> None:
    from igpt_keras.runs import Pretrain

    sizes = {"image_size": 8, "num_layers": 4, "hidden_dim": 64, "num_heads": 4, "num_colors": 16}
    settings = Pretrain.Settings(**sizes, epochs=epochs, batch_size=64, learning_rate=0.003)
    Pretrain.open(settings, "digits", folder).run()


def finetune(
    side: Side, model: pathlib.Path, few: bool, learning_rate: float, seed: int
) -> dict[str, float]:
    """Fine-tunes the model on digits; returns the accuracies."""
    from igpt_keras.runs import Finetune

    settings = Finetune.Settings(
        model=model,
        lora_rank=side.rank,
        freeze_blocks=round(side.frozen * 4),
        learning_rate=learning_rate,
        labels_per_class=FEW if few else None,
        batch_size=32,
        epochs=40 if few else 10,
        patience=10,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Finetune.open(settings, "digits", pathlib.Path(folder, "run"))
        return run.run().metrics


def measure_accuracy(
    side: Side, model: pathlib.Path, few: bool, num_seeds: int
) -> dict[str, float | list[float]]:
    """Returns the best learning rate, and the test accuracy of each seed with it."""
    first = {rate: finetune(side, model, few, rate, seed=0) for rate in RATES}
    best = max(RATES, key=lambda rate: first[rate]["validation_accuracy"])
    others = [finetune(side, model, few, best, seed) for seed in range(1, num_seeds)]
    return {"rate": best, "test": [each["test_accuracy"] for each in (first[best], *others)]}


def work(arguments: argparse.Namespace) -> None:
    """In a side's own process: prints what was measured as JSON."""
    side = SIDES[arguments.work]
    if arguments.model is None:
        print(json.dumps(measure_steps(side, arguments)))
        return
    accuracies = {
        name: measure_accuracy(side, arguments.model, few, arguments.accuracy)
        for name, few in (("few", True), ("all", False))
    }
    print(json.dumps(accuracies))


def describe(accuracy: dict) -> str:
    """Mean and standard deviation in percent, and the learning rate."""
    values = [100 * value for value in accuracy["test"]]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}% (rate {accuracy['rate']:g})"


def row(name: str, steps: dict[str, float], accuracies: dict[str, dict]) -> str:
    """A line of the table."""
    measured = [
        f"{steps['trained'] / 1e6:.2f}M",
        f"{steps['saved'] / 1e6:.1f} MB",
        f"{steps['memory'] / 1e6:.0f} MB",
        f"{steps['seconds']:.2f} s",
        *map(describe, accuracies.values()),
    ]
    return f"| {name} | {' | '.join(measured)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden-dim", type=int, default=512)
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--accuracy", type=int, default=3, help="seeds to fine-tune with")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of pre-training on digits")
    parser.add_argument("--model", type=pathlib.Path, help="pre-trained on digits already")
    parser.add_argument("--only", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--work", choices=list(SIDES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments)
        return
    sizes = [
        f"--{name.replace('_', '-')}={getattr(arguments, name)}"
        for name in ("layers", "hidden_dim", "image_size", "batch", "steps", "accuracy")
    ]
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or pathlib.Path(folder, "digits")
        if arguments.accuracy and arguments.model is None:
            pretrain(model, arguments.epochs)
        columns = ["", "trained", "saved", "peak memory", "CPU time of a step"]
        if arguments.accuracy:
            columns += [f"{FEW} labels a class", "all labels"]
        print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
        for name in arguments.only:
            given = (__file__, f"--work={name}", *sizes)
            steps = run_apart(*given)
            accuracies = {}
            if arguments.accuracy and not SIDES[name].remat:  # Which changes no result.
                accuracies = run_apart(*given, f"--model={model}")
            print(row(name, steps, accuracies), flush=True)


if __name__ == "__main__":
    main()
