"""Speculative against plain decoding on trained models, and the cost of a pass by its positions.

    python benchmarks/speculate.py digits
    python benchmarks/speculate.py trained runs/ar runs/small --data folder:cifar10
    python benchmarks/speculate.py trained runs/ar runs/small --data folder:cifar10 \
        --as image_gpt_small
    python benchmarks/speculate.py passes --preset image_gpt_small

`digits` first trains a model and a smaller one as its draft, in a minute or two. `trained` takes
two trained models. Both also fit a `NeighborDraft` to the training images, complete held-out images
one at a time, from the first half and from nothing, with each draft in turn, and check that the
pixels are those without a draft. `--as` gives the model the cost of a preset without changing its
distribution. `passes` needs no trained model. The script prints Markdown tables.
"""

import argparse
import dataclasses
import functools
import math
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The script serving.py in this folder has the name of a package.
sys.path.remove(str(pathlib.Path(__file__).parent.resolve()))

import keras
import numpy as np
import tensorflow as tf

import igpt_keras
from igpt_keras.data.data_set import open_data
from igpt_keras.data.tokenization import tokenize
from igpt_keras.sampling.decoder import decode_step, grow, prefill
from igpt_keras.sampling.drafts import Draft, ModelDraft, NeighborDraft
from igpt_keras.sampling.gumbel import gumbel_noise
from igpt_keras.sampling.requests import completion_seeds
from igpt_keras.training.recipes import pretrain

# The model for digits, that of `igpt quickstart`.
NUM_COLORS = 16
HIDDEN_DIM, NUM_LAYERS, NUM_HEADS = 64, 4, 4
BATCH_SIZE, EPOCHS, LEARNING_RATE = 32, 20, 0.003
IMAGES = 4
ROUNDS = 2
WINDOWS = (8, 16, 32)
# A draft for digits: a model of one block.
DRAFT_DIM, DRAFT_HEADS = 32, 2
COUNTS = (1, 2, 4, 8, 12, 16, 32)
REPEATS = 12


@dataclasses.dataclass
class Task:
    """A model, its drafts by name, and held-out images, uint8 [B, R, R, 3]."""

    model: igpt_keras.ImageGPT
    drafts: dict[str, Draft]
    images: np.ndarray


def digits_task() -> Task:
    digits = open_data("digits")
    palette = igpt_keras.ColorPalette.fit(digits.train.images, NUM_COLORS)
    tokens = palette.tokenize(digits.train.images)
    model, small = (
        trained(igpt_keras.ImageGPTConfig(8, NUM_COLORS, *sizes), palette, tokens)
        for sizes in ((HIDDEN_DIM, NUM_LAYERS, NUM_HEADS), (DRAFT_DIM, 1, DRAFT_HEADS))
    )
    return Task(model, drafts_of(small, tokens), digits.test.images[:IMAGES])


def trained(config, palette, tokens) -> igpt_keras.ImageGPT:
    keras.utils.set_random_seed(0)
    model = igpt_keras.ImageGPT(config, tokenizer=palette)
    pretrain(
        model,
        tokens,
        tokens[:BATCH_SIZE],
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        verbose=0,
    )
    return model


def task_of(model_path: str, draft_path: str, source: str, cache: str | None) -> Task:
    model, small = igpt_keras.load(model_path), igpt_keras.load(draft_path)
    data = open_data([source])
    tokens = tokenize(data.train, model.tokenizer, cache=cache).tokens
    test = tokenize(data.test, model.tokenizer, cache=cache).tokens
    chosen = np.random.default_rng(0).choice(len(test), IMAGES, replace=False)
    images = model.tokenizer.detokenize(test[chosen])
    return Task(model, drafts_of(small, tokens), images)


def drafts_of(small, tokens) -> dict[str, Draft]:
    return {
        "neighbors": NeighborDraft.fit(tokens, small.config.vocabulary_size),
        f"model, {small.count_params():,} parameters": ModelDraft(small),
    }


def padded(model: igpt_keras.ImageGPT, preset: str) -> igpt_keras.ImageGPT:
    """Returns a model with the distribution of `model` and the width, depth and cost of a preset.

    Its weights are those of `model`, padded with zeros. Width: a norm divides by the root of a
    mean over more numbers, for which its gain compensates. Depth: blocks of zeros add nothing.
    Heads: scores are divided by the root of a larger width, for which the queries compensate.
    """
    small = model.config
    config = igpt_keras.ImageGPTConfig.preset(
        preset, image_size=small.image_size, vocabulary_size=small.vocabulary_size
    )
    large = igpt_keras.ImageGPT(config, tokenizer=model.tokenizer)
    large.set_weights([np.zeros(weight.shape) for weight in large.get_weights()])
    gain = math.sqrt(small.hidden_dim / config.hidden_dim)

    def copy(source, target, scale=1.0):
        values = np.zeros(target.shape)
        values[tuple(slice(0, size) for size in source.shape)] = scale * source.numpy()
        target.assign(values)

    def by_head(weights, config, axis):
        """A view of weights [..., H · D, ...] as [..., H, D, ...]."""
        shape = list(weights.shape)
        return weights.reshape(shape[:axis] + [-1, config.num_heads, config.head_dim])

    for name in ("token_embedding", "position_embedding", "start_vector"):
        copy(getattr(model.backbone.embedding, name), getattr(large.backbone.embedding, name))
    for source, target in zip(model.backbone.blocks, large.backbone.blocks, strict=False):
        copy(source.attention_norm.scale, target.attention_norm.scale, gain)
        copy(source.mlp_norm.scale, target.mlp_norm.scale, gain)
        copy(source.mlp.up_proj.kernel, target.mlp.up_proj.kernel)
        copy(source.mlp.down_proj.kernel, target.mlp.down_proj.kernel)
        maps = np.zeros(target.attention.qkv.kernel.shape)
        into = by_head(maps, config, 1)
        of = by_head(source.attention.qkv.kernel.numpy(), small, 1).copy()
        of[:, 0] *= math.sqrt(config.head_dim / small.head_dim)
        into[: small.hidden_dim, :, : small.num_heads, : small.head_dim] = of
        target.attention.qkv.kernel.assign(maps)
        maps = np.zeros(target.attention.output_proj.kernel.shape)
        into = maps.reshape(config.num_heads, config.head_dim, -1)
        of = source.attention.output_proj.kernel.numpy()
        of = of.reshape(small.num_heads, small.head_dim, -1)
        into[: small.num_heads, : small.head_dim, : small.hidden_dim] = of
        target.attention.output_proj.kernel.assign(maps)
    copy(model.backbone.final_norm.scale, large.backbone.final_norm.scale, gain)
    copy(model.token_head.kernel, large.token_head.kernel)
    return large


def acceptance(task: Task, draft: Draft, tokens: np.ndarray, seeds: np.ndarray) -> float:
    """Returns how often a draft, given all earlier pixels, draws the pixel that the model draws.

    Args:
        task: The model.
        draft: The draft.
        tokens: int32 [B, n], samples of the model.
        seeds: int64 [B], the seeds of these samples.
    """
    config = task.model.config
    size, length = config.image_size, config.sequence_length
    noise = gumbel_noise(seeds, 0, size, size, config.vocabulary_size)
    logits, _ = draft.logits(
        draft.begin(tokens, 0, 1), tf.constant(tokens.T), tf.constant(0), length
    )
    return float(np.mean(tf.argmax(logits + noise, axis=-1).numpy() == tokens.T))


def compare(task: Task, windows: tuple[int, ...] = WINDOWS) -> None:
    """Prints tokens per pass and steps/s of each draft and window, and those of plain decoding."""
    model, size = task.model, task.model.config.image_size
    nll = -model.score(task.images).mean() / size**2
    print(f"\n{model.count_params():,} parameters, {size}×{size} pixels, ", end="")
    print(f"{model.config.vocabulary_size} colors, {nll:.3f} nats per pixel\n")
    sampled = model.sample(32)
    seeds = completion_seeds(0, 32, 1)[:, 0]
    print("| draft | acceptance | window | known rows | pixels per pass | plain, steps/s |", end="")
    print(" speculative, steps/s | ratio |")
    print("| --- " + "| ---: " * 7 + "|")
    for name, draft in task.drafts.items():
        accepted = acceptance(task, draft, sampled.tokens[:, 0], seeds)
        for window in windows:
            draft.window = window
            for keep_rows in (size // 2, 0):
                passes, plain, fast = times(task, draft, keep_rows)
                pixels = (size - keep_rows) * size
                print(
                    f"| {name} | {accepted:.3f} | {window} | {keep_rows} | {pixels / passes:.2f} "
                    f"| {pixels / plain:.0f} | {pixels / fast:.0f} | {plain / fast:.2f} |",
                    flush=True,
                )


def times(task: Task, draft: Draft, keep_rows: int) -> tuple[float, float, float]:
    """Returns passes per image, and seconds per image without and with the draft, in turns."""
    passes, seconds = [], {None: [], draft: []}
    for round_number in range(-1, ROUNDS):
        for image in range(len(task.images)):
            completions = {}
            for which in seconds:
                start = time.perf_counter()
                completions[which] = task.model.generate(
                    task.images[image : image + 1], keep_rows=keep_rows, seed=image, draft=which
                )
                # The first round traces.
                if round_number >= 0:
                    seconds[which].append(time.perf_counter() - start)
            differ = (completions[None].tokens != completions[draft].tokens).sum()
            if differ:
                print(f"<!-- image {image}: {differ} pixels differ: a tie within rounding -->")
            passes.append(completions[draft].num_forward_passes)
    return statistics.mean(passes), *(statistics.mean(values) for values in seconds.values())


def measure_passes(preset: str) -> None:
    """Prints the time of a pass over k positions in the middle of an image.

    Beside it, that of the projections alone, with nothing between them.
    """
    model = igpt_keras.ImageGPT(igpt_keras.ImageGPTConfig.preset(preset))
    config = model.config
    middle = config.sequence_length // 2
    _, caches = tf.function(lambda tokens: prefill(model, tokens))(tf.zeros([1, middle], tf.int32))
    caches = grow(caches, middle + max(COUNTS))
    measured: dict[str, dict[int, Callable]] = {"pass": {}, "projections": {}}
    for count in COUNTS:

        def whole_pass(caches, count=count):
            logits, caches = decode_step(model, tf.zeros([1, count], tf.int32), middle, caches)
            return tf.reduce_sum(logits), caches

        def projections(rows):
            return tf.constant(0.0), projected(model, rows)

        rows = tf.ones([count, config.hidden_dim])
        measured["pass"][count] = functools.partial(repeated(whole_pass), caches)
        measured["projections"][count] = functools.partial(repeated(projections), rows)
    seconds = {name: {count: [] for count in COUNTS} for name in measured}
    # The first round traces.
    for round_number in range(-1, ROUNDS):
        for name, functions in measured.items():
            for count, function in functions.items():
                start = time.perf_counter()
                function()
                if round_number >= 0:
                    seconds[name][count].append((time.perf_counter() - start) / REPEATS)
    print(f"\n{preset}, batch 1, {middle} positions cached\n")
    print("| positions per pass | ms | relative to one | projections alone, ms | relative to one |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for count in COUNTS:
        cells = []
        for of in seconds.values():
            best = min(of[count])
            cells += [f"{1000 * best:.1f}", f"{best / min(of[1]):.2f}"]
        print(f"| {count} | {' | '.join(cells)} |")


def projected(model: igpt_keras.ImageGPT, rows):
    """Returns rows [k, d] after all projections of the blocks, with nothing else between them."""
    for block in model.backbone.blocks:
        values = block.attention.qkv(rows)[:, : model.config.hidden_dim]
        rows = block.mlp.down_proj(block.mlp.up_proj(block.attention.output_proj(values)))
    return rows


def repeated(step: Callable) -> Callable:
    """Returns a function that runs `step` `REPEATS` times and hands its state on."""

    @tf.function(autograph=False)
    def repeat(state):
        def body(done, total, state):
            number, state = step(state)
            return done + 1, total + number, state

        return tf.while_loop(lambda done, *_: done < REPEATS, body, (0, 0.0, state))[1:]

    return repeat


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("digits")
    command = commands.add_parser("trained")
    command.add_argument("model")
    command.add_argument("draft")
    command.add_argument("--data", required=True)
    command.add_argument(
        "--as", dest="preset", help="pad the model to the cost of a preset, see `padded`"
    )
    command.add_argument("--windows", type=int, nargs="+", default=WINDOWS)
    command.add_argument("--cache", help="folder of cached tokens, as of `igpt pretrain`")
    commands.add_parser("passes").add_argument("--preset", default="image_gpt_small")
    arguments = parser.parse_args()
    if arguments.command == "passes":
        measure_passes(arguments.preset)
    elif arguments.command == "digits":
        compare(digits_task())
    else:
        task = task_of(arguments.model, arguments.draft, arguments.data, arguments.cache)
        if arguments.preset:
            task.model = padded(task.model, arguments.preset)
        compare(task, arguments.windows)


if __name__ == "__main__":
    main()
