"""`igpt sample`: new images."""

import pathlib

import click

from igpt_keras.cli.command import command, option, plural
from igpt_keras.cli.complete import MODEL, SAMPLING
from igpt_keras.cli.options import COUNT
from igpt_keras.cli.sampler_options import SAMPLER, SamplerCommand
from igpt_keras.json_files import write_json
from igpt_keras.sampling.samplers import Sampler

NUM_SAMPLES = option("--num-samples", type=COUNT, default=16, help="Number of images to sample.")


@command(NUM_SAMPLES, SAMPLER, *SAMPLING, *MODEL, cls=SamplerCommand)
def sample(
    model: str,
    output: pathlib.Path,
    num_samples: int,
    sampler: Sampler,
    draft: str | None,
    num_steps: int | None,
    seed: int,
    entropy: bool,
    progress: str,
    overwrite: bool,
):
    """Sample new images.

    Writes the images, a contact sheet of all of them, and their log-likelihoods.
    """
    import numpy as np

    import igpt_keras
    from igpt_keras.atomic import atomic_path
    from igpt_keras.cli import completions as files
    from igpt_keras.pictures import save_png

    with atomic_path(output, overwrite, marker=files.SHEET) as partial:
        loaded = igpt_keras.load(model)
        size = loaded.config.image_size
        settings = {
            "keep_rows": 0,
            "sampler": sampler,
            "draft": draft and files.read_draft(draft),
            "num_steps": num_steps,
        }
        blank = np.zeros((num_samples, size, size, 3), np.uint8)
        samples = files.complete_in_groups(loaded, blank, seed, settings, progress)
        names = files.write_samples(partial, samples.images[:, 0])
        records = files.likelihoods(samples, [[name] for name in names], size * size)
        write_json(partial / files.LIKELIHOODS, records)
        if entropy:
            save_png(files.sample_entropies(samples), partial / files.ENTROPY)
    files.print_likelihoods(records)
    click.echo(f"Wrote {plural(num_samples, 'sample')} and {files.SHEET} to {output}")
