"""Seconds and peak memory of dense and sparse attention against the number of tokens.

    python -m pip install -e '.[report]'
    python benchmarks/attention.py --plot docs/attention.png
    python benchmarks/attention.py --image-sizes 8 16 --steps 1 --rounds 1

Prints Markdown tables, and draws them. Each measurement runs in a process of its own, so that
its peak is its own; the patterns take turns. A step of training is one of `fit`, not compiled by
XLA. A step of decoding is the one of the last token, with n - 1 tokens in the caches.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Iterator

from turns import peak_memory, run_apart, timed

PATTERNS = ("dense", "strided", "fixed")
TASKS = ("training", "decoding")
# Steps of decoding that run in one loop, in which the caches are changed in place.
DECODED = 64


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the model, by default those of `image_gpt_nano`, and of a batch."""

    num_layers: int = 4
    hidden_dim: int = 128
    num_heads: int = 2
    num_colors: int = 512
    batch_size: int = 1


@dataclasses.dataclass(frozen=True)
class Measured:
    """The least seconds of a step, and the most bytes beyond those before it."""

    seconds: float
    memory: int


def build(attention: str, image_size: int, sizes: Sizes):
    """A model with random weights."""
    import igpt_keras

    layers = (sizes.hidden_dim, sizes.num_layers, sizes.num_heads)
    return igpt_keras.ImageGPT(
        igpt_keras.ImageGPTConfig(image_size, sizes.num_colors, *layers, attention=attention)
    )


def training_step(model, batch_size: int):
    """A function that trains one step."""
    import numpy as np
    import tensorflow as tf

    from igpt_keras.training.recipes import adam

    model.compile(adam(1e-3), jit_compile=False)
    shape = (batch_size, model.config.sequence_length)
    tokens = np.random.default_rng(0).integers(0, model.config.vocabulary_size, shape)
    tokens = tokens.astype(np.int32)
    batches = iter(tf.data.Dataset.from_tensors(tokens).repeat())
    model.make_train_function()
    return lambda: model.train_function(batches)["loss"].numpy()


def decoding_steps(model, batch_size: int):
    """A function that decodes the last `DECODED` tokens."""
    import tensorflow as tf

    from igpt_keras.sampling.decoder import cache_specs, decode_step

    config = model.config
    length, count = config.sequence_length, min(DECODED, config.sequence_length)
    shape = (batch_size * config.num_heads, length, config.head_dim)
    caches = tf.nest.map_structure(lambda _: tf.random.normal(shape), [(0, 0)] * config.num_layers)
    tokens = tf.zeros([batch_size, 1], tf.int32)
    specs = cache_specs(model)

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32), specs])
    def decode(start, caches):
        def step(position, caches, _):
            logits, caches = decode_step(model, tokens, position, caches)
            return position + 1, caches, tf.reduce_sum(logits)

        return tf.while_loop(
            lambda position, *_: position < length,
            step,
            (start, caches, tf.zeros([])),
            parallel_iterations=1,
            shape_invariants=(
                tf.TensorShape([]),
                tf.nest.map_structure(lambda spec: spec.shape, specs),
                tf.TensorShape([]),
            ),
        )[2]

    return lambda: decode(length - count, caches).numpy()


def work(task: str, attention: str, image_size: int, sizes: Sizes, steps: int) -> None:
    """In a process of its own: prints seconds of each step, and bytes beyond those before it."""
    model = build(attention, image_size, sizes)
    make = training_step if task == "training" else decoding_steps
    divisor = 1 if task == "training" else min(DECODED, image_size**2)
    before = peak_memory()
    step = make(model, sizes.batch_size)
    step()
    seconds = [timed(step)[0][0] / divisor for _ in range(steps)]
    print(json.dumps([seconds, peak_memory() - before]))


def measure(
    task: str, image_sizes: list[int], sizes: Sizes, steps: int, rounds: int
) -> dict[tuple[str, int], Measured]:
    """All patterns at all sizes, by both."""
    found = {}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in vars(sizes).items()]
    arguments.append(f"--steps={steps}")
    for image_size in image_sizes:
        for _ in range(rounds):
            for attention in PATTERNS:
                task_of = [f"--work={task}", f"--attention={attention}"]
                seconds, memory = run_apart(
                    __file__, *task_of, f"--image-sizes={image_size}", *arguments
                )
                known = found.get((attention, image_size), Measured(float("inf"), 0))
                found[attention, image_size] = Measured(
                    min(known.seconds, *seconds), max(known.memory, memory)
                )
    return found


def table(found: dict[tuple[str, int], Measured], image_sizes: list[int]) -> str:
    """Markdown: a row for each size, with what the sparse patterns take of the dense one."""
    head = ["tokens"]
    head += [f"{name}, s" for name in PATTERNS] + [f"{name} / dense" for name in PATTERNS[1:]]
    head += [f"{name}, GB" for name in PATTERNS] + [f"{name} / dense" for name in PATTERNS[1:]]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for size in image_sizes:
        row = [found[name, size] for name in PATTERNS]
        cells = [f"{size}² = {size**2:,}"]
        cells += [f"{each.seconds:.3g}" for each in row]
        cells += [f"{each.seconds / row[0].seconds:.2f}" for each in row[1:]]
        cells += [f"{each.memory / 1e9:.3g}" for each in row]
        cells += [f"{each.memory / max(row[0].memory, 1):.2f}" for each in row[1:]]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def growth(found: dict[tuple[str, int], Measured], image_sizes: list[int]) -> Iterator[str]:
    """The exponent of n by which each pattern's seconds grow between the last two sizes."""
    import math

    smaller, larger = image_sizes[-2:]
    for name in PATTERNS:
        ratio = found[name, larger].seconds / found[name, smaller].seconds
        yield f"{name} n^{math.log(ratio) / (2 * math.log(larger / smaller)):.2f}"


def draw(results: dict[str, dict[tuple[str, int], Measured]], sizes: list[int], path) -> None:
    """A figure with a row for each task: its seconds and its memory."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, rows = plt.subplots(
        len(results), 2, figsize=(8, 3.2 * len(results)), layout="constrained", squeeze=False
    )
    for (task, found), panels in zip(results.items(), rows, strict=True):
        seconds, unit = ("seconds", 1) if task == "training" else ("milliseconds", 1e-3)
        for panel, field, what, scale in (
            (panels[0], "seconds", seconds, unit),
            (panels[1], "memory", "peak memory, GB", 1e9),
        ):
            for name, marker in zip(PATTERNS, "osD", strict=True):
                values = [getattr(found[name, size], field) / scale for size in sizes]
                panel.plot([size**2 for size in sizes], values, marker=marker, label=name)
            panel.set(title=f"A step of {task}", xlabel="tokens", ylabel=what)
            panel.set_xticks([size**2 for size in sizes], [f"{size}²" for size in sizes])
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
    rows[0][0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-sizes", type=int, nargs="+", default=[32, 48, 64, 96])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--steps", type=int, default=3, help="timed steps in a process")
    parser.add_argument("--rounds", type=int, default=2, help="processes of every pattern")
    parser.add_argument("--plot", type=pathlib.Path, help="file of a figure")
    parser.add_argument("--work", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--attention", choices=PATTERNS, help=argparse.SUPPRESS)
    for field in dataclasses.fields(Sizes):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    options = parser.parse_args()
    sizes = Sizes(
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(Sizes)}
    )
    if options.work:
        work(options.work, options.attention, options.image_sizes[0], sizes, options.steps)
        return
    results = {}
    for task in options.tasks:
        found = measure(task, options.image_sizes, sizes, options.steps, options.rounds)
        results[task] = found
        print(f"A step of {task}:\n\n{table(found, options.image_sizes)}\n", flush=True)
        if len(options.image_sizes) > 1:
            print(f"Growth of the seconds: {', '.join(growth(found, options.image_sizes))}\n")
    if options.plot:
        draw(results, options.image_sizes, options.plot)


if __name__ == "__main__":
    main()
