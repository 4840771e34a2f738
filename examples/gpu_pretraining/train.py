"""Pre-trains an Image GPT on one GPU, in a given number of seconds.

    KERAS_BACKEND=jax python train.py packed output --seconds 500

The first seconds compile the model and measure two batch sizes. Then the number of training steps
is known, and with it the learning rate: a linear warm-up, and a cosine that ends with the time.
"""

import argparse
import math
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import keras
import numpy as np
from pack import read_tokens

import igpt_keras
from igpt_keras import paper
from igpt_keras.json_files import write_json
from igpt_keras.network.attention import dot_product_attention
from igpt_keras.training.recipes import adam, warmup_cosine

PART_BYTES = 15 * 2**20
MEASURED_SECONDS = 3.0
MARGIN = 0.05  # of the time, for which nothing is planned
WARMUP = 0.05  # of the steps; one epoch in the paper
CLIP_NORM = 1.0  # not in the paper: nobody restarts a run of a few minutes that diverges


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--objective", choices=("ar", "bert"), default="ar")
    parser.add_argument("--num-layers", type=int, default=12)
    parser.add_argument("--hidden-dim", type=int, default=256)
    parser.add_argument("--num-heads", type=int, default=4)


def model_config(arguments: argparse.Namespace, image_size: int) -> igpt_keras.ImageGPTConfig:
    sizes = (arguments.hidden_dim, arguments.num_layers, arguments.num_heads)
    return igpt_keras.ImageGPTConfig(image_size, paper.PALETTE_SIZE, *sizes)


def attention_is_fused(config: igpt_keras.ImageGPTConfig) -> bool:
    """Returns whether Keras calls cuDNN's kernel for this model's attention."""
    shape = (1, config.sequence_length, config.num_heads, config.head_dim)
    x = jax.ShapeDtypeStruct(shape, "bfloat16")
    lowered = jax.jit(lambda x: dot_product_attention(x, x, x, causal=True)).lower(x)
    return "cudnn" in lowered.as_text()


def batches(tokens: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray]]:
    """Yields endless batches of shuffled images, every other one mirrored at random.

    The paper crops larger images at random instead; at 32×32 there is nothing to crop.
    """
    generator = np.random.default_rng(0)
    size = math.isqrt(tokens.shape[1])
    while True:
        order = generator.permutation(len(tokens))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            images = tokens[order[start : start + batch_size]].reshape(-1, size, size)
            mirrored = generator.random(batch_size) < 0.5
            images[mirrored] = images[mirrored, :, ::-1]
            yield (images.reshape(batch_size, -1),)


def images_per_second(model: keras.Model, tokens: np.ndarray, batch_size: int) -> float:
    """Compiles the training step for a batch size, then times it for MEASURED_SECONDS."""
    data = batches(tokens, batch_size)

    def seconds(steps: int) -> float:
        start = time.monotonic()
        model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0)
        return time.monotonic() - start

    seconds(1)  # compiles
    steps = 1 + int(4 * MEASURED_SECONDS / seconds(4))
    return steps * batch_size / seconds(steps)


def measured_speeds(model: keras.Model, tokens: np.ndarray, sizes: list[int]) -> dict[int, float]:
    """Returns images/s for each batch size; the model and its optimizer do not change."""
    initial = model.get_weights()
    speeds = {size: images_per_second(model, tokens, size) for size in sizes}
    model.set_weights(initial)
    for variable in model.optimizer.variables:
        variable.assign(np.zeros(variable.shape))
    return speeds


class Writer(keras.callbacks.Callback):
    """Writes metrics and float16 weights after every evaluation.

    `training.json` is written last and names the files of the weights: it is true at any moment.
    """

    def __init__(self, folder: pathlib.Path, start: float, plan: dict):
        super().__init__()
        self.folder, self.start, self.plan = folder, start, plan
        self.evaluations = []

    def on_epoch_end(self, epoch, logs):
        step = int(self.model.optimizer.iterations)
        evaluation = {
            "step": step,
            "seconds": round(time.monotonic() - self.start, 1),
            "learning_rate": float(self.model.optimizer.learning_rate),
            "training_nats": logs["loss"],
            "validation_nats": logs["val_loss"],
        }
        print(evaluation, flush=True)
        self.evaluations.append(evaluation)
        weights = np.concatenate([np.ravel(v.numpy()) for v in self.model.trainable_variables])
        stored = weights.astype(np.float16).tobytes()
        starts = range(0, len(stored), PART_BYTES)
        names = [f"weights-{step}-{number}.bin" for number in range(len(starts))]
        for name, begin in zip(names, starts, strict=True):
            (self.folder / name).write_bytes(stored[begin : begin + PART_BYTES])
        training = {**self.plan, "evaluations": self.evaluations, "parts": names}
        write_json(self.folder / "training.json", training)
        for path in self.folder.glob("weights-*.bin"):
            if path.name not in names:
                path.unlink()


def planned_optimizer(learning_rate: float) -> tuple[keras.Optimizer, Any]:
    """Returns Adam and its schedule, whose steps may change after the step is compiled."""
    schedule: Any = warmup_cosine(learning_rate, warmup_steps=1, total_steps=2)
    optimizer = adam(schedule, CLIP_NORM)
    schedule.warmup_steps = optimizer.add_variable((), "ones", name="warmup_steps")
    schedule.decay_steps = optimizer.add_variable((), "ones", name="decay_steps")
    return optimizer, schedule


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("packed", type=pathlib.Path, help="what pack.py wrote")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=500, help="time, compilation included")
    parser.add_argument("--batch-sizes", type=int, nargs=2, default=[128, 256])
    parser.add_argument("--learning-rate", type=float, default=paper.LEARNING_RATE)
    parser.add_argument("--evaluations", type=int, default=8)
    add_model_options(parser)
    return parser.parse_args()


def main() -> None:
    start = time.monotonic()
    arguments = read_arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    palette, tokens, held_out = read_tokens(arguments.packed)
    palette.save(arguments.output / "palette.npy")
    config = model_config(arguments, math.isqrt(tokens.shape[1]))
    print(f"{len(tokens)} training images, {len(held_out)} held-out images")
    print(f"fused attention: {attention_is_fused(config)}", flush=True)

    keras.utils.set_random_seed(0)
    model = igpt_keras.ImageGPT(config, arguments.objective, dtype="mixed_bfloat16")
    optimizer, schedule = planned_optimizer(arguments.learning_rate)
    model.compile(optimizer)
    speeds = measured_speeds(model, tokens, arguments.batch_sizes)
    small, large = arguments.batch_sizes
    # A large batch makes fewer steps: it has to be clearly faster.
    batch_size = large if speeds[large] > 1.1 * speeds[small] else small
    evaluation_batch = math.gcd(len(held_out), 500)  # equal batches: one compilation
    for _ in range(2):
        evaluation_start = time.monotonic()
        model.evaluate(held_out, batch_size=evaluation_batch, verbose=0)
    now = time.monotonic()
    left = arguments.seconds * (1 - MARGIN) - (now - start)
    left -= arguments.evaluations * (now - evaluation_start)
    interval = int(left * speeds[batch_size] / batch_size / arguments.evaluations)
    if interval < 1:
        raise SystemExit(f"--seconds {arguments.seconds:g} leaves no time to train")
    steps = interval * arguments.evaluations
    warmup_steps = math.ceil(WARMUP * steps)
    schedule.warmup_steps.assign(warmup_steps)
    schedule.decay_steps.assign(steps - warmup_steps)
    plan = {
        "config": config.to_dict(),
        "objective": arguments.objective,
        "batch_size": batch_size,
        "steps": steps,
        "warmup_steps": warmup_steps,
        "images_per_second": speeds,
    }
    print(plan, flush=True)
    model.fit(
        batches(tokens, batch_size),
        epochs=arguments.evaluations,
        steps_per_epoch=interval,
        validation_data=(held_out, None),
        validation_batch_size=evaluation_batch,
        callbacks=[Writer(arguments.output, start, plan)],
        shuffle=False,
        verbose=0,
    )


if __name__ == "__main__":
    main()
