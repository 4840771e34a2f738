"""Images a second of `igpt tokenize` with Apache Beam, and of one process without it.

    python -m pip install -e '.[beam]'
    python benchmarks/tokenize_images.py --images 4000

Prints a Markdown table. Each way runs in a process of its own, on the same JPEG files of random
smooth pictures. Its first row is `igpt_keras.data.tokenize`; images a second do not count the
start of the first process, processor seconds count all.
"""

import argparse
import json
import pathlib
import resource
import tempfile
import time

import numpy as np
from PIL import Image
from turns import run_apart

WAYS = {
    "one process": None,
    "DirectRunner": [],
    "DirectRunner, 2 processes": [
        "direct_num_workers=2",
        "direct_running_mode=multi_processing",
    ],
}


def write_photos(folder: pathlib.Path, count: int, side: int) -> None:
    """Writes JPEG files of random colors, enlarged as smoothly as a photograph is."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(count):
        small = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        large = small.resize((side, side), Image.Resampling.BICUBIC)
        large.save(folder / f"{index:05d}.jpg", quality=90)


def measure(way: str, folder: pathlib.Path) -> dict[str, float]:
    """Tokenizes the files in one way; returns seconds and processor seconds."""
    from igpt_keras import ColorPalette
    from igpt_keras.data import open_data, tokenize

    palette = ColorPalette(np.random.default_rng(0).uniform(-1, 1, (512, 3))).bind(32)
    options = WAYS[way]
    if options is None:
        data = open_data(f"folder:{folder / 'photos'}")
        start = time.perf_counter()
        for split in (data.train, data.validation):
            tokenize(split, palette)
    else:
        from igpt_keras.pipelines import BeamRunner, write_tokens

        start = time.perf_counter()
        write_tokens(
            f"folder:{folder / 'photos'}",
            folder / way,
            tokenizer=palette,
            images_per_shard=512,
            runner=BeamRunner(options=options),
        )
    seconds = time.perf_counter() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"seconds": seconds, "processor": sum(each.ru_utime + each.ru_stime for each in used)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=4000, help="Number of images.")
    parser.add_argument("--side", type=int, default=256, help="Their side in pixels.")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_photos(folder / "photos", arguments.images, arguments.side)
        print("|  | images/s | processor seconds |\n| --- | ---: | ---: |")
        for way in WAYS:
            measured = run_apart(__file__, "--way", way, "--folder", str(folder))
            rate = arguments.images / measured["seconds"]
            print(f"| {way} | {rate:,.0f} | {measured['processor']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
