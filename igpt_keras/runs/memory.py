"""Whether a training fits into memory, and what would."""

import contextlib
import dataclasses
from collections.abc import Iterator

import tensorflow as tf

from igpt_keras.errors import InputError
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.runs.options import ModelTrainingOptions
from igpt_keras.training.memory import Layout, alternatives, available_bytes, gigabytes
from igpt_keras.training.strategies import num_hosts


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """What a training needs of the memory.

    Attributes:
        config: Sizes of the model.
        layout: How a step uses memory.
        available: Bytes that were available before; None on accelerators.
    """

    config: ImageGPTConfig
    layout: Layout
    available: int | None

    @property
    def needed(self) -> int:
        """Bytes at the peak, by the formulas of docs/scaling.md with a margin."""
        return self.layout.training_bytes(self.config)

    def __str__(self) -> str:
        parts = self.layout.micro_batches
        images = self.layout.batch_size // parts
        about = f"up to {gigabytes(self.needed)} of memory"
        if self.available is not None:
            about = f"{about}, {gigabytes(self.available)} available"
        return about if parts == 1 else f"{about}; {parts} micro-batches of {images} images"


def plan_memory(
    config: ImageGPTConfig,
    settings: ModelTrainingOptions,
    batch_size: int,
    strategy: tf.distribute.Strategy,
    before: int | None,
    trained: int | None = None,
) -> MemoryPlan:
    """Checks that a training fits into the memory of this host.

    Args:
        config: Sizes of the model.
        settings: Settings of the training; `micro_batches="auto"` takes the fewest that fit.
        batch_size: Images in a step, of all devices together.
        strategy: The strategy that the model is made under.
        before: The number of micro-batches of a run that is resumed, which "auto" keeps: another
            number rounds differently.
        trained: Number of parameters that train; None for all.

    Raises:
        InputError: It does not fit; the message names settings that would.
    """
    micro_batches = settings.micro_batches
    if micro_batches == "auto" and before is not None:
        micro_batches = before
    automatic = micro_batches == "auto"
    hosts = num_hosts(strategy)
    layout = Layout(
        batch_size // hosts,
        1 if automatic else micro_batches,
        settings.remat,
        settings.precision != "float32",
        strategy.num_replicas_in_sync // hosts,
        trained,
    )
    if tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU"):
        return MemoryPlan(config, layout, None)
    available = available_bytes()
    fits = layout.fitting(config, available) if automatic else layout
    if fits is not None and fits.training_bytes(config) <= available:
        return MemoryPlan(config, fits, available)
    needed = (fits or list(layout.divided())[-1]).training_bytes(config)
    raise InputError(
        f"training needs up to {gigabytes(needed)} of memory and {gigabytes(available)} are "
        f"available; {_in_words(alternatives(config, layout, available))}"
    )


@contextlib.contextmanager
def out_of_memory_named(plan: MemoryPlan) -> Iterator[None]:
    """Raises `InputError` with settings that need less memory where TensorFlow has too little."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        half = dataclasses.replace(plan.layout, micro_batches=1).training_bytes(plan.config) // 2
        settings = alternatives(plan.config, plan.layout, min(half, plan.needed // 2))
        tensor = error.message.partition("\n")[0]
        raise InputError(f"out of memory ({tensor}); {_in_words(settings)}") from error


def _in_words(settings: list[str]) -> str:
    if not settings:
        return "no smaller batch fits either: take a smaller model or more memory"
    return f"these settings need less: {', or '.join(settings)}"
