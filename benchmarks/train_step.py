"""A training step of iGPT compared with Hugging Face's and with the bare matrix products it needs.

    python -m pip install -e '.[benchmark]'
    python benchmarks/train_step.py
    python benchmarks/train_step.py --layers 4 --image-size 64 --batch 1
    python benchmarks/train_step.py --layers 6 --profile

Prints a Markdown table. The sides take turns, each in a process of its own, as TensorFlow and
PyTorch in one disturb each other's threads: a step that does not count, then some that do. CPU
time is that of all threads: unlike wall time it hardly depends on what else the machine is doing.
`--profile` tells instead which operations our step spends its time in.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator

from turns import Times, peak_memory, run_apart, timed

HIDDEN_DIM = 512
HEADS = 8
COLORS = 512
LEARNING_RATE = 1e-3
HUGGING_FACE = "Hugging Face"
HUGGING_FACE_SDPA = "Hugging Face with sdpa"
OURS = "igpt_keras"
OURS_REMAT = "igpt_keras, remat"
OURS_XLA = "igpt_keras, XLA"
PRODUCTS = ("products, TensorFlow", "products, PyTorch")
STEPS = (OURS, HUGGING_FACE, HUGGING_FACE_SDPA, OURS_REMAT, OURS_XLA)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is trained on: float32, a causal model, all of the batch at once."""

    layers: int
    image_size: int
    batch: int

    @property
    def length(self) -> int:
        return self.image_size**2


@dataclasses.dataclass(frozen=True)
class Product:
    """`count` products of `batch` matrices [m, k] by [k, n] each."""

    count: int
    batch: int
    m: int
    k: int
    n: int
    transpose_a: bool = False
    transpose_b: bool = False

    @property
    def flops(self) -> int:
        """Of all of them."""
        return 2 * self.count * self.batch * self.m * self.k * self.n


def products(sizes: Sizes) -> Iterator[Product]:
    """Every matrix product of a step: forward and the gradients of both factors.

    Attention counts in full, as if nothing were masked.
    """
    tokens, d = sizes.batch * sizes.length, HIDDEN_DIM
    maps = [(sizes.layers, d, 3 * d), (sizes.layers, d, d)]
    maps += [(sizes.layers, d, 4 * d), (sizes.layers, 4 * d, d), (1, d, COLORS)]
    for count, width, out in maps:
        yield Product(count, 1, tokens, width, out)
        yield Product(count, 1, tokens, out, width, transpose_b=True)
        yield Product(count, 1, width, tokens, out, transpose_a=True)
    n, heads, head = sizes.length, sizes.batch * HEADS, HIDDEN_DIM // HEADS
    # Scores, and the gradient of the weights.
    yield Product(2 * sizes.layers, heads, n, head, n, transpose_b=True)
    # Attended values, and the gradient of the queries.
    yield Product(2 * sizes.layers, heads, n, n, head)
    # Gradients of keys and values.
    yield Product(2 * sizes.layers, heads, n, n, head, transpose_a=True)


def our_step(sizes: Sizes, remat: bool, jit_compile: bool) -> Callable[[], list[Times]]:
    import numpy as np
    import tensorflow as tf

    import igpt_keras
    from igpt_keras.training.recipes import adam

    config = igpt_keras.ImageGPTConfig(
        sizes.image_size, COLORS, HIDDEN_DIM, sizes.layers, HEADS, use_bias=False
    )
    model = igpt_keras.ImageGPT(config)
    model.compile(adam(LEARNING_RATE), jit_compile=jit_compile, remat=remat)
    tokens = np.random.default_rng(0).integers(0, COLORS, (sizes.batch, sizes.length))
    batches = iter(tf.data.Dataset.from_tensors(tokens.astype(np.int32)).repeat())
    model.make_train_function()

    def step():
        model.train_function(batches)["loss"].numpy()

    return lambda: timed(step)


def hugging_face_step(sizes: Sizes, sdpa: bool) -> Callable[[], list[Times]]:
    import torch
    from peers import mend_torchvision

    mend_torchvision()
    from transformers import ImageGPTConfig, ImageGPTForCausalImageModeling
    from transformers.models.imagegpt.modeling_imagegpt import ImageGPTAttention

    if sdpa:
        # transformers has none for this model.
        def attention(self, query, key, value, attention_mask=None):
            attend = torch.nn.functional.scaled_dot_product_attention
            return attend(query, key, value, is_causal=True), None

        ImageGPTAttention._attn = attention
    torch.set_num_threads(os.cpu_count())
    config = ImageGPTConfig(
        vocab_size=COLORS + 1,
        n_positions=sizes.length,
        n_embd=HIDDEN_DIM,
        n_layer=sizes.layers,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )
    model = ImageGPTForCausalImageModeling(config).train()
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, betas=(0.9, 0.95), fused=True)
    tokens = torch.randint(COLORS, (sizes.batch, sizes.length))
    inputs = torch.cat([torch.full_like(tokens[:, :1], COLORS), tokens[:, :-1]], dim=1)

    def step():
        optimizer.zero_grad()
        # Its loss takes the logits before each label, hence one label more than it counts.
        model(input_ids=inputs, labels=tokens).loss.backward()
        optimizer.step()

    return lambda: timed(step)


def tensorflow_products(sizes: Sizes) -> Callable[[], list[Times]]:
    import tensorflow as tf

    def product(given):
        multiply = tf.function(
            lambda a, b: tf.matmul(
                a, b, transpose_a=given.transpose_a, transpose_b=given.transpose_b
            ),
            autograph=False,
        )
        a, b = (tf.random.uniform(shape) for shape in shapes(given))
        return lambda: multiply(a, b)

    return time_of_each([product(given) for given in products(sizes)])


def torch_products(sizes: Sizes) -> Callable[[], list[Times]]:
    import torch

    torch.set_num_threads(os.cpu_count())

    def product(given):
        a, b = (torch.rand(shape) for shape in shapes(given))
        a = a.mT if given.transpose_a else a
        b = b.mT if given.transpose_b else b
        return lambda: torch.matmul(a, b)

    return time_of_each([product(given) for given in products(sizes)])


def shapes(product: Product) -> list[tuple[int, ...]]:
    """Of the two factors as they lie in memory."""
    a, b = (product.m, product.k), (product.k, product.n)
    a = a[::-1] if product.transpose_a else a
    b = b[::-1] if product.transpose_b else b
    leading = () if product.batch == 1 else (product.batch,)
    return [leading + a, leading + b]


def time_of_each(functions: list[Callable]) -> Callable[[], list[Times]]:
    return lambda: [timed(function)[0] for function in functions]


def work(side: str, sizes: Sizes, steps: int) -> None:
    """In a side's own process: prints the times of all steps, and the peak of memory in bytes."""
    if side == PRODUCTS[0]:
        step = tensorflow_products(sizes)
    elif side == PRODUCTS[1]:
        step = torch_products(sizes)
    elif side.startswith(HUGGING_FACE):
        step = hugging_face_step(sizes, sdpa=side == HUGGING_FACE_SDPA)
    else:
        step = our_step(sizes, remat=side == OURS_REMAT, jit_compile=side == OURS_XLA)
    step()
    times = [step() for _ in range(steps)]
    print(json.dumps([times, peak_memory()]))


@dataclasses.dataclass
class Side:
    """What a side has measured.

    Attributes:
        steps: of every step, the times of each part that is timed by itself.
        peak: the most memory that a process held, in bytes.
    """

    steps: list[list[Times]] = dataclasses.field(default_factory=list)
    peak: int = 0

    def take_turn(self, name: str, sizes: Sizes, steps: int) -> None:
        arguments = [f"--{key.replace('_', '-')}={value}" for key, value in vars(sizes).items()]
        times, peak = run_apart(__file__, f"--work={name}", f"--steps={steps}", *arguments)
        self.steps += times
        self.peak = max(self.peak, peak)

    def totals(self, clock: int) -> list[float]:
        """Seconds of every step, the least first: wall time (0) or CPU time (1)."""
        return sorted(sum(part[clock] for part in step) for step in self.steps)


def print_table(sizes: Sizes, sides: dict[str, Side]) -> None:
    needed = list(products(sizes))
    flops = sum(product.flops for product in needed)
    steps = [step for name in PRODUCTS for step in sides[name].steps]
    # The better library's best, product by product.
    best = [
        [min(times[clock] for times in each) for each in zip(*steps, strict=True)]
        for clock in (0, 1)
    ]
    peak = max(p.flops / p.count / seconds for p, seconds in zip(needed, best[0], strict=True))
    wall, cpu = (
        sum(p.count * seconds for p, seconds in zip(needed, of_clock, strict=True))
        for of_clock in best
    )
    ours = [sides[OURS].totals(clock)[0] for clock in (0, 1)]
    print("| | wall s | median | : ours | CPU s | : ours | TFLOP/s | peak memory, GB |")
    print("| --- |" + " ---: |" * 7)

    def row(name, wall, median, cpu, memory):
        of_cpu = (f"{cpu:.2f}", f"{cpu / ours[1]:.2f}") if cpu else ("", "")
        cells = [f"{wall:.2f}", median, f"{wall / ours[0]:.2f}", *of_cpu]
        print(f"| {name} | {' | '.join(cells)} | {flops / wall / 1e12:.3f} | {memory} |")

    row(f"all products at {peak / 1e9:.0f} GFLOP/s", flops / peak, "", None, "")
    row("all products, each at its own best", wall, "", cpu, "")
    for name, side in sides.items():
        if name not in PRODUCTS:
            walls = side.totals(0)
            median = f"{walls[len(walls) // 2]:.2f}"
            row(name, walls[0], median, side.totals(1)[0], f"{side.peak / 1e9:.2f}")


def print_profile(sizes: Sizes) -> None:
    """A table of the operations of one of our steps, by the time from their starts to their ends.

    Two may run at a time, so their sum is more than the step's.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    step = our_step(sizes, remat=False, jit_compile=False)
    step()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            [(wall, _)] = step()
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        profile = xplane_pb2.XSpace.FromString(file.read_bytes())
    seconds = collections.Counter()
    for plane in profile.planes:
        for event in (event for line in plane.lines for event in line.events):
            # "name:Operation" for what runs an operation, anything else for what surrounds it.
            _, colon, operation = plane.event_metadata[event.metadata_id].name.rpartition(":")
            if colon and hasattr(tf.raw_ops, operation.removeprefix("_Mkl")):
                seconds[operation.removeprefix("_Mkl")] += event.duration_ps / 1e12
    total = sum(seconds.values())
    print(f"{wall:.2f} s, of which operations, one after the other, {total:.2f} s\n")
    print("| operation | s | share |\n| --- | ---: | ---: |")
    for operation, of_it in seconds.most_common(16):
        print(f"| {operation} | {of_it:.3f} | {of_it / total:.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side")
    parser.add_argument("--steps", type=int, default=3, help="steps that count in a turn")
    parser.add_argument(
        "--sides", nargs="+", choices=STEPS, default=STEPS[:3], help="igpt_keras always takes part"
    )
    parser.add_argument("--profile", action="store_true", help="where our step spends its time")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = Sizes(arguments.layers, arguments.image_size, arguments.batch)
    if arguments.profile:
        print_profile(sizes)
        return
    if arguments.work:
        work(arguments.work, sizes, arguments.steps)
        return
    names = list(dict.fromkeys([OURS, *arguments.sides]))
    load = os.getloadavg()[0]
    sides = {name: Side() for name in (*PRODUCTS, *names)}
    for _ in range(arguments.rounds):
        for name, side in sides.items():
            side.take_turn(name, sizes, arguments.steps)
    flops = sum(product.flops for product in products(sizes))
    print(
        f"{sizes.layers} layers, {sizes.image_size}×{sizes.image_size}, batch {sizes.batch}: "
        f"{flops / 1e12:.3f} TFLOP; {os.cpu_count()} cores, load {load:.1f} at the start\n"
    )
    print_table(sizes, sides)


if __name__ == "__main__":
    main()
