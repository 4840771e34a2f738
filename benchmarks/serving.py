"""What serving adds to a completion, what batching gains, and what a long run does to it.

    python benchmarks/serving.py
    python benchmarks/serving.py --image-size 8 --hidden-dim 32 --num-layers 2 --soak 10

`igpt serve` runs in a process of its own on loopback, with a model of random weights; the client
is `serving.client`, without retries. Prints Markdown tables:

- one client's half-image completions over gRPC and by `model.generate` in this process, in
  turns;
- the images per second of one client, and of several at the same time;
- `--soak` seconds of several clients that each ask for the last row of an image: latency,
  memory, threads and open files of the server;
- `--swap` seconds of the same while a new version replaces the old one every few seconds.
"""

import argparse
import contextlib
import copy
import itertools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# This file has the name of the package that it measures.
sys.path.remove(str(pathlib.Path(__file__).parent.resolve()))

import numpy as np
import tensorflow as tf

import igpt_keras
from serving import Client, ServingError, export
from serving.client import RetryPolicy

NUM_COLORS = 512
# Seconds between two versions, and between two looks at the server's memory.
SWAP_INTERVAL = 3
SAMPLE_INTERVAL = 1


def build_model(options) -> igpt_keras.ImageGPT:
    """A model of random weights, heads included: nothing may be known in advance."""
    config = igpt_keras.ImageGPTConfig(
        image_size=options.image_size,
        vocabulary_size=NUM_COLORS,
        hidden_dim=options.hidden_dim,
        num_layers=options.num_layers,
        num_heads=8,
    )
    colors = np.random.default_rng(0).uniform(-1, 1, (NUM_COLORS, 3))
    model = igpt_keras.ImageGPT(config, tokenizer=igpt_keras.ColorPalette(colors))
    generator = np.random.default_rng(1)
    model.set_weights([generator.normal(0, 0.02, w.shape) for w in model.get_weights()])
    return model


class Process:
    """`igpt serve` on a free port.

    Attributes:
        address: "host:port".
    """

    def __init__(self, directory: pathlib.Path, log: pathlib.Path):
        command = [sys.executable, "-c", "from igpt_keras.cli import main; main()", "serve"]
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [*command, str(directory), "--port", "0"],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        announced = self._process.stdout.readline()
        found = re.search(r" at (\S+)$", announced.strip())
        if found is None:
            raise RuntimeError(f"the server did not start: {log.read_text()}")
        self.address = found[1]

    def usage(self) -> tuple[float, int, int]:
        """Resident memory in MB, threads, and open files."""
        folder = pathlib.Path("/proc", str(self._process.pid))
        pages = int((folder / "statm").read_text().split()[1])
        threads = len(list((folder / "task").iterdir()))
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, threads, len(os.listdir(folder / "fd"))

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *exception) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()


class Load:
    """Clients that each ask for completions one after another, until told to stop.

    Args:
        address: "host:port" of the server.
        image: an encoded image.
        clients: how many, each with a connection and a thread.
        keep_rows: of every request.
        requests: of each client; None for no end.

    Attributes:
        latencies: seconds of every answer.
        errors: every request that was not answered.
    """

    def __init__(
        self,
        address: str,
        image: bytes,
        clients: int,
        keep_rows: int,
        requests: int | None = None,
    ):
        self.latencies: list[float] = []
        self.errors: list[ServingError] = []
        self._stopped = threading.Event()
        self._requests = itertools.count() if requests is None else range(requests)
        self._threads = [
            threading.Thread(target=self._ask, args=(address, image, keep_rows, number))
            for number in range(clients)
        ]

    def _ask(self, address, image, keep_rows, seed):
        with _connect(address) as client:
            for _ in copy.copy(self._requests):
                if self._stopped.is_set():
                    return
                start = time.perf_counter()
                try:
                    client.complete([image], keep_rows=keep_rows, seed=seed)
                except ServingError as error:
                    self.errors.append(error)
                    time.sleep(0.1)
                else:
                    self.latencies.append(time.perf_counter() - start)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._stopped.set()
        self.join()

    def join(self) -> None:
        """Returns when every client has made its requests."""
        for thread in self._threads:
            thread.join()


def _connect(address: str) -> Client:
    return Client(address, timeout=None, retries=RetryPolicy(attempts=1))


def compare_in_process(model, address: str, options) -> None:
    """Half-image completions at batch 1, in process and over gRPC, in turns."""
    size = options.image_size
    image = np.random.default_rng(2).integers(0, 256, (1, size, size, 3), np.uint8)
    seconds = {"in process": [], "over gRPC": []}
    with _connect(address) as client:
        asked = {
            "in process": lambda seed: model.generate(image, keep_rows=size // 2, seed=seed),
            "over gRPC": lambda seed: client.complete(image, keep_rows=size // 2, seed=seed),
        }
        for complete in asked.values():
            complete(0)
        for seed in range(1, options.rounds + 1):
            tokens = []
            for name, complete in asked.items():
                start = time.perf_counter()
                tokens.append(complete(seed).tokens)
                seconds[name].append(time.perf_counter() - start)
            np.testing.assert_array_equal(*tokens)
    ratios = np.divide(seconds["over gRPC"], seconds["in process"])
    print(f"\nHalf-image completions, batch 1, {options.rounds} rounds, same tokens:\n")
    print("| | median s | best s |\n| --- | ---: | ---: |")
    for name, values in seconds.items():
        print(f"| {name} | {np.median(values):.3f} | {min(values):.3f} |")
    best = min(seconds["over gRPC"]) / min(seconds["in process"])
    print(f"| over gRPC : in process | {np.median(ratios):.3f} | {best:.3f} |")


def compare_clients(address: str, image: bytes, options) -> None:
    """Images per second of one client and of several."""
    rates = []
    for clients in (1, options.clients):
        start = time.perf_counter()
        keep_rows = options.image_size // 2
        with Load(address, image, clients, keep_rows, options.rounds) as load:
            load.join()
        rates.append(len(load.latencies) / (time.perf_counter() - start))
        if load.errors:
            raise load.errors[0]
    print("\nHalf-image completions at the same time:\n")
    print("| clients | images/s | : one |\n| ---: | ---: | ---: |")
    for clients, rate in zip((1, options.clients), rates, strict=True):
        print(f"| {clients} | {rate:.3f} | {rate / rates[0]:.2f} |")


def soak(process: Process, image: bytes, options, seconds: float, directory=None) -> None:
    """Load for some time; with `directory`, while its versions are replaced."""
    versions = 0
    with Load(process.address, image, options.clients, options.image_size - 1) as load:
        time.sleep(min(10, seconds / 4))
        usages = [process.usage()]
        load.latencies.clear()
        start = time.monotonic()
        next_swap = start
        while time.monotonic() < start + seconds:
            if directory is not None and time.monotonic() >= next_swap:
                _swap(directory)
                versions += 1
                next_swap = time.monotonic() + SWAP_INTERVAL
            time.sleep(SAMPLE_INTERVAL)
            usages.append(process.usage())
        elapsed = time.monotonic() - start
    _print_soak(load, np.array(usages), elapsed, versions)


def _swap(directory: pathlib.Path) -> None:
    """Puts the same model in place as the next version; two are kept."""
    numbers = sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())
    for number in numbers[:-1]:
        shutil.rmtree(directory / str(number))
    partial = directory / ".next"
    shutil.copytree(directory / str(numbers[-1]), partial, copy_function=os.link)
    partial.rename(directory / str(numbers[-1] + 1))


def _print_soak(load: Load, usages: np.ndarray, seconds: float, versions: int) -> None:
    p50, p99 = np.percentile(load.latencies, [50, 99])
    # The second half against the first: what grows without end shows there.
    middle = len(usages) // 2
    memory = [np.median(half) for half in (usages[:middle, 0], usages[middle:, 0])]
    title = f"{versions} versions" if versions else "one version"
    print(f"\n{seconds:.0f} s of load, one row a request, {title}:\n")
    print("| | |\n| --- | ---: |")
    print(f"| requests answered | {len(load.latencies)} |")
    print(f"| requests lost | {len(load.errors)} |")
    print(f"| latency p50, ms | {p50 * 1e3:.0f} |")
    print(f"| latency p99, ms | {p99 * 1e3:.0f} |")
    for label, value in zip(("first", "second"), memory, strict=True):
        print(f"| memory, median of the {label} half, MB | {value:.0f} |")
    print(f"| most memory, MB | {usages[:, 0].max():.0f} |")
    for label, column in (("threads", 1), ("open files", 2)):
        print(f"| {label}, first and last | {usages[0, column]:.0f}, {usages[-1, column]:.0f} |")
    for message in sorted({str(error) for error in load.errors}):
        print(f"\nlost: {message}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # iGPT-S.
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--hidden-dim", type=int, default=512)
    parser.add_argument("--num-layers", type=int, default=24)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="completions a client")
    parser.add_argument("--soak", type=float, default=600, help="seconds; 0 to leave it out")
    parser.add_argument("--swap", type=float, default=60, help="seconds; 0 to leave it out")
    parser.add_argument("--speed", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    size = options.image_size
    print(
        f"{options.num_layers} layers, hidden_dim {options.hidden_dim}, {size}×{size} pixels, "
        f"{NUM_COLORS} colors; {options.clients} clients; TensorFlow {tf.__version__}"
    )
    pixels = np.random.default_rng(3).integers(0, 256, (size, size, 3), np.uint8)
    image = tf.io.encode_png(pixels).numpy()
    with contextlib.ExitStack() as stack:
        work = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = build_model(options)
        export(model, work / "served")
        process = stack.enter_context(Process(work / "served", work / "server.log"))
        if options.speed:
            compare_in_process(model, process.address, options)
            compare_clients(process.address, image, options)
        if options.soak:
            soak(process, image, options, options.soak)
        if options.swap:
            soak(process, image, options, options.swap, work / "served")


if __name__ == "__main__":
    main()
