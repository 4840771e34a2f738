"""Memory that training needs, and how to make it fit.

B images, n tokens an image, d `hidden_dim`, H heads, L blocks, V colors; k keys that attention
multiplies a query with, n for dense attention. docs/scaling.md has tables of these formulas and
compares them with measurements.
"""

import collections
import dataclasses
import functools
import pathlib
import resource
from collections.abc import Iterator

from igpt_keras.network.attention import QUERY_BLOCK_SIZE
from igpt_keras.network.attention_patterns import AttentionPattern
from igpt_keras.network.config import ImageGPTConfig

# By how much a measured peak may exceed the formulas, which leave out temporary tensors.
MARGIN = 1.2
# The rest is for images, and for other processes.
USABLE = 0.9
CGROUP = pathlib.Path("/sys/fs/cgroup")


def state_bytes(config: ImageGPTConfig, mixed: bool, trained: int | None = None) -> int:
    """Weights, gradients, and Adam's two moments, float32; if `mixed`, weights in bfloat16 too.

    `trained` parameters have gradients and moments; None for all.
    """
    count = config.parameter_count()
    return (4 + 2 * mixed) * count + (4 + 8) * (count if trained is None else trained)


def trained_parameters(
    config: ImageGPTConfig, lora_rank: int | None, frozen_blocks: int, num_classes: int
) -> int | None:
    """Returns how many parameters of a classifier train, at most; None for all.

    Args:
        config: The sizes.
        lora_rank: Rank of the adapters, which train with the class head alone; None without.
        frozen_blocks: Number of first blocks that do not train.
        num_classes: Number of classes.
    """
    d = config.hidden_dim
    if lora_rank is not None:
        return (config.num_layers - frozen_blocks) * 16 * d * lora_rank + num_classes * d
    if frozen_blocks:
        # The projections of a block have 12 d² weights.
        return config.parameter_count(num_classes=num_classes) - frozen_blocks * 12 * d * d
    return None


@functools.lru_cache(maxsize=64)
def patterns(config: ImageGPTConfig) -> collections.Counter[AttentionPattern]:
    """Returns how many blocks of a model have each of its attention patterns."""
    return collections.Counter(map(config.pattern, range(config.num_layers)))


def block_bytes(
    config: ImageGPTConfig,
    pattern: AttentionPattern,
    mixed: bool,
    keeps_all: bool = False,
    parts: int = 1,
) -> int:
    """Activations of a block that its gradient needs, for one token.

    Whole on every device: the block's input h and a = h + attention, and both normalized
    states. Split over `parts` devices by `layout_map`: queries, keys, values, attended values,
    and copies that a sparse pattern makes; the MLP's hidden states u and u · sigmoid(1.702 u).

    Args:
        config: Sizes of the model, taken to be autoregressive.
        pattern: The block's.
        mixed: Whether activations have 16 bits, norms and softmax float32.
        keeps_all: Whether nothing is computed again, as on JAX without a fused kernel: the
            normalized states without their gain, in float32, sigmoid(1.702 u) and the H k
            attention weights of a token are kept as well; if `mixed`, h, a and the attention
            weights also in float32.
        parts: Number of devices that share the block.
    """
    d, heads = config.hidden_dim, config.num_heads
    keys = pattern.num_products(config.sequence_length, causal=True)
    size = 2 if mixed else 4
    whole, split = 4 * d * size, (4 + pattern.num_copies() + 8) * d * size
    if keeps_all:
        whole += 2 * d * 4 + (2 * d * 4 if mixed else 0)
        split += 4 * d * size + heads * keys * (4 + (2 if mixed else 0))
    return whole + split // parts


def activation_bytes(
    config: ImageGPTConfig,
    batch_size: int,
    mixed: bool,
    remat: bool = False,
    keeps_all: bool = False,
    parts: int = 1,
) -> int:
    """Activations of `batch_size` images; other arguments as for `block_bytes`.

    All blocks', or with recomputation all blocks' inputs and one block's; what the gradient
    of one block takes while it is computed (of the attention weights and scores, float32, of
    as many queries as are processed at once, or of the MLP's hidden states); logits and their
    gradient, float32.
    """
    d, layers = config.hidden_dim, config.num_layers
    size = 2 if mixed else 4
    counts = patterns(config)
    kept = {each: block_bytes(config, each, mixed, keeps_all, parts) for each in counts}
    if remat:
        blocks = layers * d * size + max(kept.values())
    else:
        blocks = sum(count * kept[each] for each, count in counts.items())
    length = config.sequence_length
    keys = max(each.num_products(length, causal=True) for each in counts)
    # Patterns that see fewer keys compute many short sequences, with all queries at once.
    together = 1.0 if keeps_all or keys < length else min(1.0, QUERY_BLOCK_SIZE / length)
    at_work = max(round(2 * 4 * config.num_heads * keys * together), 2 * 4 * d * size)
    logits = 2 * 4 * config.vocabulary_size
    return batch_size * length * (blocks + (at_work + logits) // parts)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a step of training uses memory.

    Attributes:
        batch_size: Images in a step, of all devices together.
        micro_batches: Parts of a batch that go through the model in turn.
        remat: Whether activations are recomputed.
        mixed: Whether activations have 16 bits.
        replicas: Copies of the model that share the memory, each with a share of the batch.
        trained: Number of parameters that train; None for all.
    """

    batch_size: int
    micro_batches: int = 1
    remat: bool = False
    mixed: bool = False
    replicas: int = 1
    trained: int | None = None

    def training_bytes(self, config: ImageGPTConfig) -> int:
        """Returns the peak memory of training a model, above that of the process before.

        Activations are freed before a checkpoint copies the weights and Adam's moments.
        """
        count = config.parameter_count()
        trained = count if self.trained is None else self.trained
        images = -(-self.batch_size // (self.micro_batches * self.replicas))
        sums = 4 * trained if self.micro_batches > 1 else 0
        step = sums + activation_bytes(config, images, self.mixed, self.remat)
        copies = 4 * count + 8 * trained
        state = self.replicas * state_bytes(config, self.mixed, self.trained)
        return round(MARGIN * (state + max(self.replicas * step, copies)))

    def divided(self) -> Iterator["Layout"]:
        """Yields the layouts with more and more micro-batches of equal size."""
        images = self.batch_size // self.replicas
        for parts in range(1, images + 1):
            if images % parts == 0:
                yield dataclasses.replace(self, micro_batches=parts)

    def fitting(self, config: ImageGPTConfig, available: int) -> "Layout | None":
        """Returns the layout with the fewest micro-batches that fit into `available` bytes."""
        fits = (each for each in self.divided() if each.training_bytes(config) <= available)
        return next(fits, None)


def alternatives(config: ImageGPTConfig, layout: Layout, available: int) -> list[str]:
    """Returns the settings, in words, with which training would fit into `available` bytes."""
    found = []

    def add(setting: str, config: ImageGPTConfig, layout: Layout | None) -> None:
        if layout is not None:
            parts = f" with micro_batches={layout.micro_batches}" * (layout.micro_batches > 1)
            found.append(f"{setting}{parts} ({gigabytes(layout.training_bytes(config))})")

    smallest = layout.fitting(config, available)
    if smallest is not None:
        found.append(
            f"micro_batches={smallest.micro_batches} ({gigabytes(smallest.training_bytes(config))})"
        )
    if not layout.remat:
        add(
            "remat=True", config, dataclasses.replace(layout, remat=True).fitting(config, available)
        )
    smaller = dataclasses.replace(layout, micro_batches=1)
    while smaller.batch_size % 2 == 0 and smaller.batch_size > smaller.replicas:
        smaller = dataclasses.replace(smaller, batch_size=smaller.batch_size // 2)
        if smaller.training_bytes(config) <= available:
            add(f"batch_size={smaller.batch_size}", config, smaller)
            break
    # Only one token per pixel goes with images of any size.
    sizes = range(config.image_size - 1, 3, -1) if config.grid is None else ()
    for size in sizes:
        if config.stride is not None and size**2 % config.stride:
            continue
        reduced = dataclasses.replace(config, image_size=size)
        fits = layout.fitting(reduced, available)
        if fits is not None:
            add(f"image_size={size}", reduced, fits)
            break
    return found


def available_bytes() -> int:
    """Returns 0.9 of what this process can still take of the host, its cgroup and its limits."""
    kilobytes = _numbers(pathlib.Path("/proc/meminfo"))
    amounts = [1024 * kilobytes["MemAvailable"]]
    for folder, limit, used, prefix in (
        (CGROUP, "memory.max", "memory.current", ""),
        (CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        if (folder / limit).exists() and (text := (folder / limit).read_text().strip()) != "max":
            # The kernel gives back cached files first.
            stat = _numbers(folder / "memory.stat")
            cached = stat[f"{prefix}inactive_file"] + stat[f"{prefix}active_file"]
            amounts.append(int(text) - int((folder / used).read_text()) + cached)
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        amounts.append(soft - pages * resource.getpagesize())
    return max(round(USABLE * min(amounts)), 0)


def _numbers(file: pathlib.Path) -> dict[str, int]:
    """Reads lines of a name and a number."""
    lines = (line.replace(":", "").split() for line in file.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines}


def gigabytes(size: int) -> str:
    """Returns a number of bytes in words, less than a tenth of a gigabyte in megabytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
