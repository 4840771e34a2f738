"""`igpt score`: the log-likelihoods of all images of a source."""

from typing import TYPE_CHECKING

from igpt_keras.cli.command import command, option
from igpt_keras.cli.options import MODEL_OR_SHIPPED, ONE_SOURCE, batch_size, overwrite
from igpt_keras.cli.shards import RUNNER, images_per_shard, print_shards

if TYPE_CHECKING:
    from igpt_keras.pipelines import BeamRunner
    from igpt_keras.runs.options import DataOptions


@command(
    MODEL_OR_SHIPPED,
    ONE_SOURCE,
    # On another file system, a path is no `pathlib.Path`.
    option("--output", required=True, metavar="DIR", help="Folder to write the scores to."),
    batch_size("Number of images per batch."),
    images_per_shard(1024),
    RUNNER,
    overwrite("Replace scores that were made in another way."),
)
def score(
    model: str,
    data: "DataOptions",
    output: str,
    batch_size: int,
    images_per_shard: int,
    runner: "BeamRunner",
    overwrite: bool,
) -> None:
    """Write the log-likelihoods of images, in nats.

    All splits go through the autoregressive MODEL in shards, which the workers of Apache Beam (the
    extra beam) write as .npz files of log-likelihoods, labels and ids. An interrupted command
    continues when it is given again. The folder may be on any file system of TensorFlow, such as
    gs://. Without MODEL, the log-likelihoods are those of the model that comes with the package.
    """
    from igpt_keras.pipelines import write_scores

    manifest = write_scores(
        model,
        data,
        output,
        batch_size=batch_size,
        images_per_shard=images_per_shard,
        runner=runner,
        overwrite=overwrite,
    )
    print_shards(output, manifest.num_examples, manifest.splits, manifest.bad_images)
