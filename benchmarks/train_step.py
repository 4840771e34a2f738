"""A training step of iGPT compared with those of others and with the bare matrix products it needs.

    python -m pip install -e '.[benchmark,jax]'
    python benchmarks/train_step.py
    python benchmarks/train_step.py --layers 4 --image-size 16 32 64 --batch 16 4 1 --plot steps.png
    python benchmarks/train_step.py --layers 6 --profile

Prints a Markdown table for each size of images, and plots them. The sides (`train_sides.py`) take
turns, each in a process of its own, as TensorFlow and PyTorch in one disturb each other's threads:
a step that does not count, then some that do. All have the same weights and images, and the loss of
their first step must be the same. CPU time is that of all threads: unlike wall time it hardly
depends on what else the machine is doing. "PyTorch, compiled" needs a C++ compiler. `--profile`
tells instead which operations our step spends its time in.
"""

import argparse
import collections
import dataclasses
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator

from train_sides import COLORS, HEADS, HIDDEN_DIM, OURS, SIDES, Sizes, our_step
from turns import Times, peak_memory, run_apart, timed

PRODUCTS = ("products, TensorFlow", "products, PyTorch")
DEFAULT_SIDES = ("PyTorch, compiled", "Hugging Face", "Hugging Face with sdpa")


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
    """In a side's own process: prints the times of all steps, the peak of memory in bytes and the
    loss of the first step, None for products."""
    loss = None
    if side in PRODUCTS:
        step = tensorflow_products(sizes) if side == PRODUCTS[0] else torch_products(sizes)
        step()
        times = [step() for _ in range(steps)]
    else:
        step = SIDES[side](sizes)
        loss = step()
        times = [timed(step) for _ in range(steps)]
    print(json.dumps([times, peak_memory(), loss]))


@dataclasses.dataclass
class Side:
    """What a side has measured.

    Attributes:
        steps: of every step, the times of each part that is timed by itself.
        peak: the most memory that a process held, in bytes.
        loss: of the first step.
    """

    steps: list[list[Times]] = dataclasses.field(default_factory=list)
    peak: int = 0
    loss: float | None = None

    def take_turn(self, name: str, sizes: Sizes, steps: int) -> None:
        arguments = [f"--{key.replace('_', '-')}={value}" for key, value in vars(sizes).items()]
        times, peak, self.loss = run_apart(
            __file__, f"--work={name}", f"--steps={steps}", *arguments
        )
        self.steps += times
        self.peak = max(self.peak, peak)

    def totals(self, clock: int) -> list[float]:
        """Seconds of every step, the least first: wall time (0) or CPU time (1)."""
        return sorted(sum(part[clock] for part in step) for step in self.steps)


def check_losses(sides: dict[str, Side]) -> None:
    """Ends the program if a side computes something else than ours."""
    for name, side in sides.items():
        # XLA and PyTorch sum in another order.
        if name not in PRODUCTS and not math.isclose(side.loss, sides[OURS].loss, rel_tol=1e-4):
            raise SystemExit(f"the loss of {name} is {side.loss}, ours {sides[OURS].loss}")


def measure(sizes: Sizes, names: list[str], rounds: int, steps: int) -> dict[str, Side]:
    """Lets all sides take turns; prints a table and returns what they measured."""
    load = os.getloadavg()[0]
    sides = {name: Side() for name in (*PRODUCTS, *names)}
    for _ in range(rounds):
        for name, side in sides.items():
            side.take_turn(name, sizes, steps)
        check_losses(sides)
    flops = sum(product.flops for product in products(sizes))
    print(
        f"{sizes.layers} layers, {sizes.image_size}×{sizes.image_size}, batch {sizes.batch}: "
        f"{flops / 1e12:.3f} TFLOP; {os.cpu_count()} cores, load {load:.1f} at the start\n"
    )
    print_table(sizes, sides)
    print(flush=True)
    return sides


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


def draw(measured: list[tuple[Sizes, dict[str, Side]]], path: pathlib.Path) -> None:
    """Plots the time of a token and the peak of memory against the length of the sequence."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    times, memory = figure.subplots(1, 2)
    lengths = [sizes.length for sizes, _ in measured]
    for name in (name for name in measured[0][1] if name not in PRODUCTS):
        seconds = [
            sides[name].totals(0)[0] / (sizes.batch * sizes.length) for sizes, sides in measured
        ]
        times.plot(lengths, [1000 * each for each in seconds], "-o", label=name)
        memory.plot(lengths, [sides[name].peak / 1e9 for _, sides in measured], "-o")
    times.set(ylabel="ms/token")
    memory.set(ylabel="peak memory, GB")
    for panel in (times, memory):
        panel.set(xlabel="positions of a sequence")
        panel.set_xscale("log", base=2)
        panel.set_xticks(lengths, map(str, lengths))
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    times.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


def print_profile(sizes: Sizes) -> None:
    """A table of the operations of one of our steps, by the time from their starts to their ends.

    Two may run at a time, so their sum is more than the step's.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    step = our_step(sizes)
    step()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            [(wall, _)] = timed(step)
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
    parser.add_argument("--image-size", type=int, nargs="+", default=[32])
    parser.add_argument("--batch", type=int, nargs="+", default=[4], help="one for each size")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side")
    parser.add_argument("--steps", type=int, default=3, help="steps that count in a turn")
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=SIDES,
        default=DEFAULT_SIDES,
        help="igpt_keras always takes part",
    )
    parser.add_argument("--profile", action="store_true", help="where our step spends its time")
    parser.add_argument("--plot", type=pathlib.Path, help="file of a figure")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if len(arguments.image_size) != len(arguments.batch):
        parser.error("--image-size and --batch must have as many values as each other")
    all_sizes = [
        Sizes(arguments.layers, image_size, batch)
        for image_size, batch in zip(arguments.image_size, arguments.batch, strict=True)
    ]
    if arguments.profile:
        print_profile(all_sizes[0])
        return
    if arguments.work:
        work(arguments.work, all_sizes[0], arguments.steps)
        return
    names = list(dict.fromkeys([OURS, *arguments.sides]))
    measured = [
        (sizes, measure(sizes, names, arguments.rounds, arguments.steps)) for sizes in all_sizes
    ]
    if arguments.plot:
        draw(measured, arguments.plot)


if __name__ == "__main__":
    main()
