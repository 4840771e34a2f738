"""Options of the commands that work on shards with Apache Beam, and what they print."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from igpt_keras.cli.command import OptionGroup, option
from igpt_keras.cli.options import COUNT
from igpt_keras.wording import plural


def _runner(runner: str, pipeline_option: tuple[str, ...]) -> Any:
    from igpt_keras.pipelines import BeamRunner

    return BeamRunner(runner, pipeline_option)


RUNNER = OptionGroup(
    "runner",
    (
        option(
            "--runner",
            default="DirectRunner",
            metavar="NAME",
            help="Runner of Apache Beam: DirectRunner on this machine, FlinkRunner, SparkRunner, "
            "DataflowRunner, or the full name of a class.",
        ),
        option(
            "--pipeline-option",
            multiple=True,
            metavar="NAME=VALUE",
            help="Option of the runner, such as direct_num_workers=4. Give it several times.",
        ),
    ),
    _runner,
)


def images_per_shard(default: int) -> click.Option:
    """Returns --images-per-shard."""
    return option(
        "--images-per-shard",
        type=COUNT,
        default=default,
        help="Number of images in a file, a multiple of 32.",
    )


def print_shards(
    output: str,
    images: Mapping[str, int],
    splits: Mapping[str, Sequence],
    bad_images: Mapping[str, str],
) -> None:
    """Prints what is in a folder, and lists bad images on stderr.

    Args:
        output: The folder.
        images: Number of images of each split.
        splits: Shards of each split.
        bad_images: Names of images that were left out, and what is wrong with each.
    """
    if bad_images:
        click.echo(f"Skipped {plural(len(bad_images), 'bad image')}:", err=True)
    for name, reason in bad_images.items():
        click.echo(f"  {name}: {reason}", err=True)
    counts = ", ".join(f"{count:,} {split}" for split, count in images.items())
    shards = plural(sum(map(len, splits.values())), "shard")
    click.echo(f"Wrote {output}: {counts} images in {shards}")
