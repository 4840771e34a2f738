"""Running work on shards with Apache Beam (the extra `beam`)."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from igpt_keras.errors import InputError
from igpt_keras.extras import require
from igpt_keras.pipelines.shards import Shard, Work
from igpt_keras.stages import stage
from igpt_keras.wording import plural

MODULE, EXTRA = "apache_beam", "beam"


@dataclasses.dataclass(frozen=True)
class BeamRunner:
    """A runner of Beam and its options.

    Args:
        name: Name of a runner, such as "DirectRunner", "FlinkRunner" or "DataflowRunner", or the
            full name of a class.
        options: Beam's options, each as `NAME=VALUE`, or `NAME` for a flag.

    Raises:
        InputError: Beam is not installed, or there is no such runner or option.

    Example:
        ```python
        BeamRunner(options=["direct_num_workers=4", "direct_running_mode=multi_processing"])
        ```
    """

    name: str = "DirectRunner"
    options: Sequence[str] = ()

    def __post_init__(self):
        with _without_warnings():
            require(MODULE, EXTRA)
        known = self._pipeline_options([]).get_all_options()
        for option in self.options:
            if option.partition("=")[0] not in known:
                raise InputError(f"pipeline option must be NAME=VALUE of Beam's, got {option!r}")
        create = require("apache_beam.runners.runner", EXTRA).create_runner
        try:
            create(self.name)
        except (ValueError, ImportError, AttributeError) as error:
            raise InputError(f"runner={self.name} cannot be used: {error}") from None

    def run(self, work: Work, shards: Sequence[Shard]) -> None:
        """Does the work on all shards.

        Raises:
            InputError: A worker could not do its work.
        """
        with stage(f"working on {plural(len(shards), 'shard')} with {self.name}"):
            self._run(work, shards)

    def _run(self, work: Work, shards: Sequence[Shard]) -> None:
        beam = require(MODULE, EXTRA)
        for shard in shards:
            work.forget_failure(shard)
        options = self._pipeline_options([f"--{option}" for option in self.options])
        pipeline = beam.Pipeline(runner=self.name, options=options)
        # Without a reshuffle, the work on all shards would be fused into the one that makes them.
        _ = pipeline | beam.Create(list(shards)) | beam.Reshuffle() | "Work" >> beam.Map(work)
        try:
            state = pipeline.run().wait_until_finish()
        except Exception:
            for shard in shards:
                if (failure := work.failure(shard)) is not None:
                    raise InputError(failure) from None
            raise
        if state != "DONE":
            raise InputError(f"{self.name} ended with the state {state}")

    @staticmethod
    def _pipeline_options(flags: list[str]) -> Any:
        module = require("apache_beam.options.pipeline_options", EXTRA)
        return module.PipelineOptions(flags)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Around the import of Beam, which warns that its parts for Google Cloud are missing."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
