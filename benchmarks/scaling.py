"""What training takes: memory, FLOPs, time, cost, and the strategy for it.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --utilization 0.5 --price H100=2.5
    python benchmarks/scaling.py --measure

The first two print Markdown tables worked out from the formulas below, in seconds; nothing is
run. `--measure` runs training steps on the CPU instead, each setting in a process of its own,
and prints their peak memory with and without recomputation, next to the formulas.

B images, n tokens an image, d `hidden_dim`, H heads, L blocks, V colors; k keys that attention
multiplies a query with. 1 GB is 10⁹ bytes.
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
from collections.abc import Iterator

from igpt_keras import paper
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.training.memory import activation_bytes, patterns, state_bytes

SHORT_NAMES = dict(zip(paper.PRESETS, ("S", "M", "L", "XL"), strict=True))
# Images in a batch, and steps.
SCHEDULES = {"image_gpt_xlarge": (paper.XLARGE_BATCH_SIZE, paper.XLARGE_TRAINING_STEPS)}
SCHEDULE = (paper.BATCH_SIZE, paper.TRAINING_STEPS)
# Of a device's memory; the rest is for what operations need while they run, and fragments.
USABLE = 0.9
DEVICES_OF_A_HOST = 8


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One device.

    Attributes:
        memory: GB, as published.
        peak: dense bfloat16 TFLOP/s, as published.
        price: dollars an hour on demand, assumed.
        tpu: whether it is one.
    """

    memory: float
    peak: float
    price: float
    tpu: bool = False


# Prices assumed in January 2026. GPUs: about what GPU clouds ask; the largest clouds ask up to
# three times as much. TPUs: about Google Cloud's list price for a chip in the USA.
ACCELERATORS = {
    "A100": Accelerator(80, 312, 1.8),
    "H100": Accelerator(80, 989, 3.0),
    "H200": Accelerator(141, 989, 3.6),
    "TPU v4": Accelerator(32, 275, 3.2, tpu=True),
    "TPU v5e": Accelerator(16, 197, 1.2, tpu=True),
    "TPU v5p": Accelerator(95, 459, 4.2, tpu=True),
}


def forward_flops(config: ImageGPTConfig) -> int:
    """Of one token: 2 for each weight of a matrix, and 4 k d a block for attention in full.

    Attention: k products of queries and keys and k of weights and values, of width d, with
    2 FLOPs each; k = n for dense attention. A causal kernel that skips what is masked needs
    half of that.
    """
    d = config.hidden_dim
    matrices = config.num_layers * 24 * d * d + 2 * d * config.vocabulary_size
    return matrices + attention_flops(config)


def attention_flops(config: ImageGPTConfig) -> int:
    """Of one token, in all blocks of an autoregressive model."""
    length = config.sequence_length
    keys = sum(
        count * pattern.num_products(length, causal=True)
        for pattern, count in patterns(config).items()
    )
    return 4 * keys * config.hidden_dim


def step_flops(config: ImageGPTConfig, batch_size: int, remat: bool = False) -> int:
    """Of a training step: the gradient takes twice the forward pass.

    Recomputation runs each block once more, without its last matrix (8 d² a token), whose
    output no gradient needs.
    """
    matrices = config.num_layers * 16 * config.hidden_dim**2
    again = matrices + attention_flops(config) if remat else 0
    return batch_size * config.sequence_length * (3 * forward_flops(config) + again)


@dataclasses.dataclass(frozen=True)
class Strategy:
    """How a step is shared out.

    Attributes:
        devices: in all.
        parts: devices that share a model's matrices; 1 for a copy on each.
        micro_batches: into which a device's images are cut.
        remat: whether activations are recomputed.
        tpu: whether the devices are TPUs.
    """

    devices: int
    parts: int = 1
    micro_batches: int = 1
    remat: bool = False
    tpu: bool = False

    def __str__(self) -> str:
        if self.parts > 1:
            name = f"ModelParallel {self.devices // self.parts}×{self.parts}"
        elif self.devices == 1:
            name = "none"
        elif self.tpu:
            name = f"tpu {self.devices}"
        elif self.devices <= DEVICES_OF_A_HOST:
            name = f"mirrored {self.devices}"
        else:
            name = f"multi-worker {self.devices}"
        cut = f", micro-batches {self.micro_batches}" if self.micro_batches > 1 else ""
        return name + cut + (", remat" if self.remat else "")


def device_bytes(config: ImageGPTConfig, batch_size: int, strategy: Strategy) -> int:
    """What a device holds in a training step, mixed bfloat16.

    XLA, which compiles for JAX (`ModelParallel`), TPUs and single GPUs, may keep all that a
    gradient needs. All of the state of `ModelParallel` counts as split: what is copied is less
    than 3% of it for S, 1% for the others.
    """
    images = -(-batch_size * strategy.parts // (strategy.devices * strategy.micro_batches))
    sums = 4 * config.parameter_count() if strategy.micro_batches > 1 else 0
    state = (state_bytes(config, mixed=True) + sums) // strategy.parts
    return state + activation_bytes(
        config,
        images,
        mixed=True,
        remat=strategy.remat,
        keeps_all=strategy.parts > 1 or strategy.tpu or strategy.devices == 1,
        parts=strategy.parts,
    )


def strategies(config: ImageGPTConfig, batch_size: int, tpu: bool, devices: int):
    """All for so many devices that share `batch_size` evenly, from the simplest.

    A copy of the model on each, if need be with micro-batches, which cost no FLOPs, then
    recomputing; then the matrices over 2 to 8 devices of a host (on the JAX backend, which
    has no micro-batches), first without recomputing.
    """
    if batch_size % devices == 0:
        images = batch_size // devices
        cuts = [cut for cut in range(1, images + 1) if images % cut == 0]
        for remat in (False, True):
            for cut in cuts:
                yield Strategy(devices, 1, cut, remat, tpu)
    for remat in (False, True):
        for parts in (2, 4, 8):
            fits = parts <= devices and config.num_heads % parts == 0
            if fits and batch_size % (devices // parts) == 0:
                yield Strategy(devices, parts, 1, remat, tpu)


def choose_strategy(
    config: ImageGPTConfig, batch_size: int, accelerator: Accelerator, devices: int, most: int = 512
) -> Strategy | None:
    """The first that fits into the memory of `devices`, or of twice as many, and so on.

    None if no number up to `most` is enough.
    """
    while devices <= most:
        for strategy in strategies(config, batch_size, accelerator.tpu, devices):
            if device_bytes(config, batch_size, strategy) <= USABLE * accelerator.memory * 1e9:
                return strategy
        devices *= 2
    return None


def step_seconds(
    config: ImageGPTConfig,
    batch_size: int,
    strategy: Strategy,
    accelerator: Accelerator,
    utilization: float,
) -> float:
    """If the devices compute at `utilization` of their peak; recomputation costs time."""
    flops = step_flops(config, batch_size, strategy.remat)
    return flops / (strategy.devices * accelerator.peak * 1e12 * utilization)


def rows() -> Iterator[tuple[str, ImageGPTConfig, int, int]]:
    """A name, the sizes, images a step and steps, for all presets at all image sizes."""
    for preset in paper.PRESETS:
        for image_size in paper.IMAGE_SIZES:
            config = ImageGPTConfig.preset(preset, image_size=image_size)
            name = f"{SHORT_NAMES[preset]} {image_size}²"
            yield name, config, *SCHEDULES.get(preset, SCHEDULE)


def table(head: list[str], lines: list[list[str]]) -> str:
    """Markdown; all columns but the first to the right."""
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ruler, *lines))


def memory_table() -> str:
    head = ["", "parameters", "weights", "gradient", "Adam"]
    head += ["activations of an image", "all kept", "recomputed"]
    lines = []
    for name, config, _, _ in rows():
        count = config.parameter_count()
        cells = [f"{count / 1e6:,.1f}M", *(f"{size * count / 1e9:.2f}" for size in (4, 4, 8))]
        for settings in ({}, {"keeps_all": True}, {"remat": True}):
            cells.append(f"{activation_bytes(config, 1, mixed=True, **settings) / 1e9:.2f}")
        lines.append([name, *cells])
    return table(head, lines)


def flops_table() -> str:
    head = ["", "batch", "forward, a token", "step", "recomputing", "attention's share"]
    lines = []
    for name, config, batch_size, _ in rows():
        lines.append(
            [
                name,
                str(batch_size),
                f"{forward_flops(config) / 1e9:.2f} G",
                f"{step_flops(config, batch_size) / 1e12:,.0f} T",
                f"{step_flops(config, batch_size, remat=True) / 1e12:,.0f} T",
                f"{attention_flops(config) / forward_flops(config):.0%}",
            ]
        )
    return table(head, lines)


# Of S: image sizes.
SPARSE_SIZES = (32, 48, 64, 96)
SPARSE_PATTERNS = ("dense", "strided", "fixed")


def sparse_table() -> str:
    """Dense and sparse attention of S, with the default order of layers and 8 heads."""
    head = ["", "keys of a query", "forward, a token", "step", "attention's share"]
    head += ["activations of an image", "recomputed"]
    lines = []
    for image_size in SPARSE_SIZES:
        for attention in SPARSE_PATTERNS:
            config = ImageGPTConfig.preset(
                "image_gpt_small", image_size=image_size, attention=attention
            )
            keys = attention_flops(config) / (4 * config.hidden_dim * config.num_layers)
            kept, recomputed = (
                activation_bytes(config, 1, mixed=True, remat=remat) / 1e9
                for remat in (False, True)
            )
            lines.append(
                [
                    f"S {image_size}² {attention}",
                    f"{keys:,.0f}",
                    f"{forward_flops(config) / 1e9:.2f} G",
                    f"{step_flops(config, paper.BATCH_SIZE) / 1e12:,.0f} T",
                    f"{attention_flops(config) / forward_flops(config):.0%}",
                    f"{kept:.2f}",
                    f"{recomputed:.2f}",
                ]
            )
    return table(head, lines)


def strategy_table(accelerators: dict[str, Accelerator]) -> str:
    head = ["", "one H100"]
    head += [f"{name}, {accelerator.memory:g} GB" for name, accelerator in accelerators.items()]
    lines = []
    for name, config, batch_size, _ in rows():
        chosen = [choose_strategy(config, batch_size, accelerators["H100"], devices=1, most=1)]
        for accelerator in accelerators.values():
            chosen.append(choose_strategy(config, batch_size, accelerator, DEVICES_OF_A_HOST))
        lines.append([name, *(str(strategy or "does not fit") for strategy in chosen)])
    return table(head, lines)


def cost_table(accelerators: dict[str, Accelerator], utilization: float) -> str:
    lines = []
    for name, config, batch_size, steps in rows():
        cells = []
        for accelerator in accelerators.values():
            strategy = choose_strategy(config, batch_size, accelerator, DEVICES_OF_A_HOST)
            if strategy is None:
                cells.append("")
                continue
            seconds = step_seconds(config, batch_size, strategy, accelerator, utilization)
            cost = strategy.devices * accelerator.price * seconds * steps / 3600
            days = seconds * steps / 86400
            cells.append(f"{seconds:,.3g} s, {days:,.3g} d, ${cost / 1000:,.3g}k")
        lines.append([name, *cells])
    return table(["", *accelerators], lines)


# Of iGPT-S's width, at batch 4 and 32², float32: blocks.
MEASURED_LAYERS = (6, 12, 24)
MEASURED_BATCH = 4


def peak_of_process(num_layers: int, remat: bool) -> None:
    """Trains two steps and prints the peak resident memory of this process, in bytes."""
    import numpy as np

    from igpt_keras.models.image_gpt import ImageGPT

    config = ImageGPTConfig.preset("image_gpt_small", num_layers=num_layers)
    model = ImageGPT(config)
    model.compile(jit_compile=False, remat=remat)
    shape = (2 * MEASURED_BATCH, config.sequence_length)
    tokens = np.random.default_rng(0).integers(0, config.vocabulary_size, shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model.fit(tokens.astype(np.int32), batch_size=MEASURED_BATCH, verbose=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB.
    print(json.dumps({"before": 1024 * before, "peak": 1024 * peak}))


def measured_table() -> str:
    """Runs every setting in a process of its own."""
    head = ["blocks", "before training", "peak, all kept", "peak, recomputed", "ratio"]
    head += ["beyond before, all kept", "by formula", "beyond before, recomputed", "by formula"]
    lines = []
    for num_layers in MEASURED_LAYERS:
        config = ImageGPTConfig.preset("image_gpt_small", num_layers=num_layers)
        before, peaks, beyond = 0, [], []
        for remat in (False, True):
            command = [sys.executable, __file__, "--peak", str(num_layers)]
            process = subprocess.run(
                [*command, *(["--remat"] if remat else [])], stdout=subprocess.PIPE, check=True
            )
            measured = json.loads(process.stdout.splitlines()[-1])
            before = measured["before"]
            peaks.append(measured["peak"])
            formula = (
                state_bytes(config, mixed=False)
                - 4 * config.parameter_count()
                + activation_bytes(config, MEASURED_BATCH, mixed=False, remat=remat)
            )
            beyond += [measured["peak"] - before, formula]
        sizes = [f"{value / 1e9:.2f} GB" for value in (before, *peaks)]
        ratio = f"{peaks[0] / peaks[1]:.2f}"
        lines.append([str(num_layers), *sizes, ratio, *(f"{value / 1e9:.2f}" for value in beyond)])
    return table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--utilization", type=float, default=0.4, help="share of the peak")
    parser.add_argument(
        "--price", action="append", default=[], metavar="NAME=DOLLARS", help="an hour"
    )
    parser.add_argument("--measure", action="store_true", help="peak memory on this CPU")
    parser.add_argument("--peak", type=int, metavar="BLOCKS", help="of one setting, in bytes")
    parser.add_argument("--remat", action="store_true", help="recompute, for --peak")
    options = parser.parse_args()
    if not 0 < options.utilization <= 1:
        parser.error(f"--utilization must lie in (0, 1], got {options.utilization}")
    accelerators = dict(ACCELERATORS)
    for price in options.price:
        name, _, dollars = price.partition("=")
        if name not in accelerators:
            parser.error(f"--price must name one of {', '.join(accelerators)}, got {price!r}")
        accelerators[name] = dataclasses.replace(accelerators[name], price=float(dollars))
    if options.peak:
        peak_of_process(options.peak, options.remat)
    elif options.measure:
        print(measured_table())
    else:
        tables = (
            memory_table(),
            flops_table(),
            sparse_table(),
            strategy_table(accelerators),
            cost_table(accelerators, options.utilization),
        )
        print("\n\n".join(tables))


if __name__ == "__main__":
    main()
