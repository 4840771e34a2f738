"""Sampling of iGPT-S pixel by pixel against Hugging Face, KerasHub and bare matrix products.

    python -m pip install -e '.[benchmark]'
    python benchmarks/decode.py

Prints Markdown tables. The products are a lower limit for one pixel at a time: each matrix of a
step once, and attention over the positions cached by then (on average). The times are those of
`--steps` pixels after `--prefixes` known ones, without the pass over the latter.
"""

import argparse
import collections
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator

from turns import peak_memory, run_apart

LAYERS = 24
HIDDEN_DIM = 512
HEADS = 8
HEAD_DIM = HIDDEN_DIM // HEADS
COLORS = 512
IMAGE_SIZE = 32
LENGTH = IMAGE_SIZE**2
OURS = "igpt_keras"
OURS_IN_FEWER_BITS = {"igpt_keras, bfloat16": "bfloat16", "igpt_keras, int8": "int8"}
HUGGING_FACE = "Hugging Face"
KERAS_HUB = "KerasHub's GPT-2"
# PyTorch's layers store the transposed matrices.
PRODUCTS = ("products, TensorFlow", "products, PyTorch", "products, PyTorch, transposed")
SIDES = (*PRODUCTS, OURS, *OURS_IN_FEWER_BITS, HUGGING_FACE, KERAS_HUB)
MAPS = [(HIDDEN_DIM, 3 * HIDDEN_DIM), (HIDDEN_DIM, HIDDEN_DIM)]
MAPS += [(HIDDEN_DIM, 4 * HIDDEN_DIM), (4 * HIDDEN_DIM, HIDDEN_DIM)]


def seconds(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def random_tokens(batch: int, length: int):
    import numpy as np

    return np.random.default_rng(0).integers(0, COLORS, (batch, length)).astype(np.int32)


# Each side yields seconds per step for one prefix; the first value is that of the first call.


def tensorflow_products(batch: int, prefix: int, steps: int) -> Iterator[float]:
    import tensorflow as tf

    maps = [[tf.Variable(tf.random.normal(shape)) for shape in MAPS] for _ in range(LAYERS)]
    head = tf.Variable(tf.random.normal([HIDDEN_DIM, COLORS]))
    rows = {width: tf.random.normal([batch, width]) for width in (HIDDEN_DIM, 4 * HIDDEN_DIM)}
    seen = prefix + steps // 2
    cache_shape = [batch * HEADS, seen, HEAD_DIM]
    caches = [[tf.Variable(tf.random.normal(cache_shape)) for _ in "kv"] for _ in range(LAYERS)]
    query = tf.random.normal([batch * HEADS, 1, HEAD_DIM])
    weights = tf.random.normal([batch * HEADS, 1, seen])

    @tf.function(autograph=False)
    def step(rows, query, weights):
        products = []

        def multiply(*factors, **options):
            with tf.control_dependencies(products[-1:]):
                products.append(tf.matmul(*factors, **options))

        for layer, (keys, values) in zip(maps, caches, strict=True):
            for matrix in layer:
                multiply(rows[matrix.shape[0]], matrix)
            multiply(query, keys, transpose_b=True)
            multiply(weights, values)
        multiply(rows[HIDDEN_DIM], head)
        # TensorFlow does not compute what is not returned.
        return products

    while True:
        yield seconds(lambda: step(rows, query, weights)[-1].numpy())


def torch_products(batch: int, prefix: int, steps: int, transposed: bool) -> Iterator[float]:
    import torch

    torch.set_num_threads(os.cpu_count())

    def matrix_of(shape):
        return torch.randn(shape[::-1]).mT if transposed else torch.randn(shape)

    maps = [[matrix_of(shape) for shape in MAPS] for _ in range(LAYERS)]
    head = matrix_of((HIDDEN_DIM, COLORS))
    rows = {width: torch.randn(batch, width) for width in (HIDDEN_DIM, 4 * HIDDEN_DIM)}
    seen = prefix + steps // 2
    caches = [[torch.randn(batch * HEADS, seen, HEAD_DIM) for _ in "kv"] for _ in range(LAYERS)]
    query = torch.randn(batch * HEADS, 1, HEAD_DIM)
    weights = torch.randn(batch * HEADS, 1, seen)

    @torch.inference_mode()
    def step():
        for layer, (keys, values) in zip(maps, caches, strict=True):
            for matrix in layer:
                torch.mm(rows[matrix.shape[0]], matrix)
            torch.bmm(query, keys.mT)
            torch.bmm(weights, values)
        torch.mm(rows[HIDDEN_DIM], head)

    while True:
        yield seconds(step)


def our_steps(batch: int, prefix: int, steps: int, precision: str = "float32") -> Iterator[float]:
    import tensorflow as tf

    from igpt_keras.sampling.samplers import Categorical

    begin, decode_rows = our_decoder(batch, precision)
    known = tf.zeros([LENGTH, batch], tf.bool)
    seeds = tf.range(batch, dtype=tf.int64)
    num_rows = tf.constant(steps // IMAGE_SIZE)
    fields = {name: tf.constant(value) for name, value in Categorical().arrays(batch).items()}
    states = []

    def start():
        states[:] = [begin(random_tokens(batch, LENGTH), tf.constant(prefix), tf.constant(1))]

    def run():
        decode_rows(states[0], known, seeds, fields, num_rows).tokens.numpy()

    yield seconds(lambda: (start(), run())) / steps
    while True:
        yield seconds(run) / steps


@functools.cache
def our_model(precision: str):
    import igpt_keras

    config = igpt_keras.ImageGPTConfig(IMAGE_SIZE, COLORS, HIDDEN_DIM, LAYERS, HEADS)
    model = igpt_keras.ImageGPT(config, dtype="float32" if precision == "int8" else precision)
    if precision == "int8":
        model.quantize("int8")
    return model


def our_decoder(num_sequences: int | None = None, precision: str = "float32"):
    from igpt_keras.sampling.compiled import compiled_decoder
    from igpt_keras.sampling.samplers import Categorical

    return compiled_decoder(our_model(precision), Categorical, num_sequences=num_sequences)


def our_prefix_passes(batch: int, prefix: int) -> dict[str, float]:
    """Returns seconds of the pass over the prefix, for several images and completions of one."""
    import tensorflow as tf

    begin, _ = our_decoder()

    def best(images, completions):
        def run():
            tokens = random_tokens(images, LENGTH)
            state = begin(tokens, tf.constant(prefix), tf.constant(completions))
            state.tokens.numpy()

        return min(seconds(run) for _ in range(4))

    return {
        "1 image": best(1, 1),
        f"1 image, {batch} completions": best(1, batch),
        f"{batch} images": best(batch, 1),
    }


@functools.cache
def hugging_face_model():
    import torch
    from peers import mend_torchvision

    mend_torchvision()
    from transformers import ImageGPTConfig, ImageGPTForCausalImageModeling

    torch.set_num_threads(os.cpu_count())
    config = ImageGPTConfig(
        vocab_size=COLORS + 1,
        n_positions=LENGTH,
        n_embd=HIDDEN_DIM,
        n_layer=LAYERS,
        n_head=HEADS,
        eos_token_id=None,
    )
    return ImageGPTForCausalImageModeling(config).eval()


def hugging_face_steps(batch: int, prefix: int, steps: int) -> Iterator[float]:
    import torch

    model = hugging_face_model()
    tokens = torch.tensor(random_tokens(batch, prefix), dtype=torch.long)
    prompt = torch.cat([torch.full((batch, 1), COLORS), tokens], dim=1)

    def run(count):
        # Its start token has a logit like all others; it may be drawn.
        return model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            top_k=0,
            use_cache=True,
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=COLORS,
        )

    yield from differences(lambda: run(steps), lambda: run(1), steps - 1)


@functools.cache
def keras_hub_model():
    from keras_hub.models import GPT2Backbone, GPT2CausalLM

    backbone = GPT2Backbone(
        COLORS + 1, LAYERS, HEADS, HIDDEN_DIM, 4 * HIDDEN_DIM, 0.0, max_sequence_length=LENGTH + 1
    )
    model = GPT2CausalLM(backbone)
    model.compile(sampler="random")
    return model


def keras_hub_steps(batch: int, prefix: int, steps: int) -> Iterator[float]:
    """Times the last pixels for any prefix: a step goes over the cache of a whole image."""
    import numpy as np

    model = keras_hub_model()
    tokens = random_tokens(batch, LENGTH + 1)

    def run(unknown):
        mask = np.broadcast_to(np.arange(LENGTH + 1) <= LENGTH - unknown, tokens.shape)
        model.generate({"token_ids": tokens, "padding_mask": mask}, stop_token_ids=None)

    yield from differences(lambda: run(steps), lambda: run(1), steps - 1)


def differences(longer: Callable, shorter: Callable, steps: int) -> Iterator[float]:
    """Yields seconds per step from the difference of two runs; the first one from `longer` only."""
    yield seconds(longer) / steps
    while True:
        yield (seconds(longer) - seconds(shorter)) / steps


def work(side: str, arguments: argparse.Namespace) -> dict:
    """Measures one side in its own process: for each prefix, its times."""
    functions = {
        PRODUCTS[0]: tensorflow_products,
        PRODUCTS[1]: functools.partial(torch_products, transposed=False),
        PRODUCTS[2]: functools.partial(torch_products, transposed=True),
        OURS: our_steps,
        **{
            name: functools.partial(our_steps, precision=precision)
            for name, precision in OURS_IN_FEWER_BITS.items()
        },
        HUGGING_FACE: hugging_face_steps,
        KERAS_HUB: keras_hub_steps,
    }
    repeats = arguments.repeats * (10 if side in PRODUCTS else 1)
    measured = {}
    for prefix in arguments.prefixes:
        times = functions[side](arguments.batches[0], prefix, arguments.steps)
        # The first call traces the graph, so it is reported separately.
        first = next(times) * arguments.steps
        measured[prefix] = {"first": first, "best": min(next(times) for _ in range(repeats))}
    return {"prefixes": measured, "peak": peak_memory()}


class Side:
    """The best measurements of a side at one batch size.

    Attributes:
        best: Seconds per step by prefix.
        first: Seconds of the first call.
        peak: Peak memory in bytes.
    """

    def __init__(self):
        self.best = collections.defaultdict(lambda: float("inf"))
        self.first = self.peak = 0

    def take_turn(self, name: str, batch: int, arguments) -> None:
        measured = run_apart(
            __file__,
            f"--work={name}",
            f"--batches={batch}",
            f"--steps={arguments.steps}",
            f"--repeats={arguments.repeats}",
            "--prefixes",
            *map(str, arguments.prefixes),
        )
        for prefix, times in measured["prefixes"].items():
            self.best[int(prefix)] = min(self.best[int(prefix)], times["best"])
        self.first = next(iter(measured["prefixes"].values()))["first"]
        self.peak = max(self.peak, measured["peak"])


def print_table(batches, prefixes, sides) -> None:
    columns = "steps/s | ms/step | of the limit | its time : ours | first call, s | peak memory, GB"
    print(f"| batch | known pixels | | {columns} |")
    print("| ---: | ---: | --- |" + " ---: |" * 6)
    for batch in batches:
        of_batch = sides[batch]
        for prefix in prefixes:
            limit = min(of_batch[name].best[prefix] for name in PRODUCTS)
            ours = of_batch[OURS].best[prefix]
            for name, side in of_batch.items():
                best = side.best[prefix]
                first = "" if name in PRODUCTS else f"{side.first:.1f}"
                print(
                    f"| {batch} | {prefix} | {name} | {1 / best:.2f} | {1000 * best:.1f} "
                    f"| {limit / best:.2f} | {best / ours:.2f} | {first} | {side.peak / 1e9:.2f} |"
                )


def draw(batches, prefixes, sides, path: pathlib.Path) -> None:
    """Plots pixels a second against the batch size, a panel for each prefix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(prefixes), 3.6), layout="constrained")
    panels = figure.subplots(1, len(prefixes), squeeze=False)[0]
    for prefix, panel in zip(prefixes, panels, strict=True):
        for name in sides[batches[0]]:
            values = [batch / sides[batch][name].best[prefix] for batch in batches]
            style = ":" if name in PRODUCTS else "-o"
            panel.plot(batches, values, style, label=name)
        panel.set(title=f"After {prefix} known pixels", xlabel="images", ylabel="pixels/s")
        panel.set_xscale("log", base=2)
        panel.set_xticks(batches, map(str, batches))
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prefixes", type=int, nargs="+", default=[0, 512, 896])
    parser.add_argument("--steps", type=int, default=128, help=f"a multiple of {IMAGE_SIZE}")
    parser.add_argument("--rounds", type=int, default=2, help="turns of every side")
    parser.add_argument("--repeats", type=int, default=2, help="runs that count in a turn")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--plot", type=pathlib.Path, help="file of a figure")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work == "prefix passes":
        print(json.dumps(our_prefix_passes(arguments.batches[0], arguments.prefixes[0])))
        return
    if arguments.work:
        print(json.dumps(work(arguments.work, arguments)))
        return
    load = os.getloadavg()[0]
    names = dict.fromkeys([*PRODUCTS, OURS, *arguments.sides])
    sides = {batch: {name: Side() for name in names} for batch in arguments.batches}
    for _ in range(arguments.rounds):
        for batch, of_batch in sides.items():
            for name, side in of_batch.items():
                side.take_turn(name, batch, arguments)
    print(
        f"{LAYERS} layers, d = {HIDDEN_DIM}, {IMAGE_SIZE}×{IMAGE_SIZE}, float32, "
        f"{arguments.steps} steps; {os.cpu_count()} cores, load {load:.1f} at the start\n"
    )
    print_table(arguments.batches, arguments.prefixes, sides)
    if arguments.plot:
        draw(arguments.batches, arguments.prefixes, sides, arguments.plot)
    passes = run_apart(__file__, "--work=prefix passes", "--batches=8", "--prefixes=512")
    print("\n| pass over 512 known pixels | s |\n| --- | ---: |")
    for what, best in passes.items():
        print(f"| {what} | {best:.2f} |")


if __name__ == "__main__":
    main()
