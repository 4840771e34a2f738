"""`igpt sample`: new images."""

import pathlib

from igpt_keras.cli.command import command, command_line, option
from igpt_keras.cli.complete import MODEL, SAMPLING, generate
from igpt_keras.cli.options import COUNT, output
from igpt_keras.cli.sampler_options import SAMPLER, SamplerCommand
from igpt_keras.sampling.samplers import Sampler

NUM_SAMPLES = option("--num-samples", type=COUNT, default=16, help="Number of images to sample.")


@command(NUM_SAMPLES, SAMPLER, output(default="sampled"), *SAMPLING, *MODEL, cls=SamplerCommand)
def sample(
    model: str,
    output: pathlib.Path,
    num_samples: int,
    sampler: Sampler,
    precision: str | None,
    draft: str | None,
    num_steps: int | None,
    labels: tuple[str, ...],
    guidance_scale: float,
    scale: int,
    seed: int,
    entropy: bool,
    progress: str,
    overwrite: bool,
) -> None:
    """Sample new images.

    Writes the images, a contact sheet of all of them, all of them as samples.npz for
    igpt evaluate --samples, and their log-likelihoods.
    """
    from igpt_keras.runs import Sample

    settings = Sample.Settings(
        model=model,
        num_samples=num_samples,
        sampler=sampler,
        precision=precision,
        draft=draft,
        num_steps=num_steps,
        labels=labels,
        guidance_scale=guidance_scale,
        entropy=entropy,
        scale=scale,
        seed=seed,
    )
    run = Sample.open(settings, None, output, overwrite=overwrite, command=command_line())
    generate(run, progress, "sample")
