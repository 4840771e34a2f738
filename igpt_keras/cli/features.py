"""`igpt features`: the features of every layer for all images of a source."""

from typing import TYPE_CHECKING

from igpt_keras.cli.command import command, option
from igpt_keras.cli.options import MODEL_OR_SHIPPED, ONE_SOURCE, batch_size, overwrite, seed
from igpt_keras.cli.shards import RUNNER, images_per_shard, print_shards

if TYPE_CHECKING:
    from igpt_keras.pipelines import BeamRunner
    from igpt_keras.runs.options import DataOptions


@command(
    MODEL_OR_SHIPPED,
    ONE_SOURCE,
    # On another file system, a path is no `pathlib.Path`.
    option("--output", required=True, metavar="DIR", help="Folder to write the features to."),
    batch_size("Number of images per batch."),
    seed("Random seed for BERT's masks."),
    images_per_shard(1024),
    RUNNER,
    overwrite("Replace features that were made in another way."),
)
def features(
    model: str,
    data: "DataOptions",
    output: str,
    batch_size: int,
    seed: int,
    images_per_shard: int,
    runner: "BeamRunner",
    overwrite: bool,
) -> None:
    """Write the features of every layer of a model.

    All splits go through MODEL in shards, which the workers of Apache Beam (the extra beam) write
    as .npz files of features, labels and ids. An interrupted command continues when it is given
    again. The folder may be on any file system of TensorFlow, such as gs://.
    Without MODEL, the features are those of the model that comes with the package.
    """
    from igpt_keras.pipelines import write_features

    manifest = write_features(
        model,
        data,
        output,
        batch_size=batch_size,
        seed=seed,
        images_per_shard=images_per_shard,
        runner=runner,
        overwrite=overwrite,
    )
    print_shards(output, manifest.num_examples, manifest.splits, manifest.bad_images)
