"""Work on the images of a data set, shard by shard, by any number of workers.

A shard is a section of a split and the file that is made of it. Beside each file lies a report in
JSON: how many images there are, which ones are bad, and the digests of the plan and of the file.
A shard with a report that fits is done, and is not made again. A worker that is killed leaves a
file under a temporary name, which does not count.
"""

import abc
import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import tensorflow as tf

from igpt_keras.atomic import SUFFIX as UNFINISHED
from igpt_keras.data.image_decoding import ImageDecoder
from igpt_keras.data.source import TEST, TRAIN, VALIDATION
from igpt_keras.data.splits import RECORD_BLOCK_SIZE, Split
from igpt_keras.data.token_files import ShardFile
from igpt_keras.errors import InputError
from igpt_keras.file_systems import (
    file_digest,
    read_json_file,
    replaced_file,
    usual_errors,
    write_json_file,
)
from igpt_keras.runs.options import DataOptions
from igpt_keras.stages import stage

PLAN_FILE = "plan.json"
REPORT_SUFFIX, FAILURE_SUFFIX = ".json", ".failed.json"
SHARD_FILE = re.compile(rf"({TRAIN}|{VALIDATION}|{TEST})-\d{{5}}-of-\d{{5}}\.")


@dataclasses.dataclass(frozen=True)
class Shard:
    """A section of a split.

    Attributes:
        split: "train", "validation" or "test".
        index: Number of the shard, from 0 on.
        count: Number of shards of the split.
        start: Index of its first image in the split.
        stop: Index after its last one.
    """

    split: str
    index: int
    count: int
    start: int
    stop: int

    @property
    def stem(self) -> str:
        """Name of its files without a suffix."""
        return f"{self.split}-{self.index:05d}-of-{self.count:05d}"


@dataclasses.dataclass(frozen=True)
class Report:
    """What is known of a shard that is done.

    Attributes:
        plan: Digest of the plan that it belongs to.
        file: Name of its file.
        num_examples: Number of images in it.
        bytes: Size of the file in bytes.
        sha256: Digest of the file.
        bad_images: Names of the images that were left out, and what is wrong with each.
    """

    plan: str
    file: str
    num_examples: int
    bytes: int
    sha256: str
    bad_images: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Work(abc.ABC):
    """What a worker does with a shard. It goes to the workers in pickled form.

    Attributes:
        output: Folder of the files.
        plan: Digest of the plan.
        data: `DataOptions.to_json()`, from which every worker opens the data set.
    """

    output: str
    plan: str
    data: dict[str, Any]

    suffix: ClassVar[str]

    @abc.abstractmethod
    def write(self, path: str, shard: Shard, split: Split, decoder: ImageDecoder) -> int:
        """Writes the file of a shard; returns the number of its images.

        Args:
            path: The file to write.
            shard: The shard.
            split: The split that it is a section of.
            decoder: Is told of bad images.
        """

    def __call__(self, shard: Shard) -> None:
        """Makes a shard, unless it is done."""
        if self._is_done(shard):
            return
        try:
            self._make(shard)
        except (InputError, OSError) as error:
            # Runners report an exception in words of their own.
            write_json_file(self._path(shard, FAILURE_SUFFIX), {"error": str(error)})
            raise
        self.forget_failure(shard)

    def report(self, shard: Shard) -> Report | None:
        """Returns the report of a shard of this plan; None if there is none."""
        content = read_json_file(self._path(shard, REPORT_SUFFIX))
        if content is None or content.get("plan") != self.plan:
            return None
        return Report(**content)

    def failure(self, shard: Shard) -> str | None:
        """Returns why a shard could not be made; None if it did not fail."""
        content = read_json_file(self._path(shard, FAILURE_SUFFIX))
        return None if content is None else content["error"]

    def forget_failure(self, shard: Shard) -> None:
        """Removes what an earlier attempt left, if it failed."""
        path = self._path(shard, FAILURE_SUFFIX)
        if tf.io.gfile.exists(path):
            tf.io.gfile.remove(path)

    def _is_done(self, shard: Shard) -> bool:
        report = self.report(shard)
        path = self._path(shard, self.suffix)
        if report is None or not tf.io.gfile.exists(path):
            return False
        return file_digest(path) == (report.bytes, report.sha256)

    def _make(self, shard: Shard) -> None:
        data = opened(json.dumps(self.data, sort_keys=True))
        split = split_of(data, shard.split)
        if split is None or split.num_examples < shard.stop:
            raise InputError(f"data={' '.join(data.data)} changed: {shard.split} has fewer images")
        decoder = ImageDecoder(data.decoder.skip_bad_images)
        path = self._path(shard, self.suffix)
        with replaced_file(path) as partial:
            count = self.write(partial, shard, split, decoder)
        name = os.path.basename(path)
        report = Report(self.plan, name, count, *file_digest(path), decoder.bad)
        write_json_file(self._path(shard, REPORT_SUFFIX), dataclasses.asdict(report))

    def _path(self, shard: Shard, suffix: str) -> str:
        return os.path.join(self.output, f"{shard.stem}{suffix}")


@functools.lru_cache(maxsize=4)
def opened(data: str) -> DataOptions:
    """Returns the options that `data` describes in JSON; a process opens a data set once."""
    values = json.loads(data)
    decoder = ImageDecoder(values.pop("skip_bad_images"))
    return DataOptions(**values, decoder=decoder)


def split_of(data: DataOptions, name: str) -> Split | None:
    """Returns the split of a name, or None."""
    data_set = data.data_set
    return {TRAIN: data_set.train, VALIDATION: data_set.validation, TEST: data_set.test}[name]


def one_source(data: DataOptions | str) -> DataOptions:
    """Returns the options of one source, with the augmentation that the source has of its own.

    Raises:
        InputError: There are several sources.
    """
    data = DataOptions.of(data)
    if len(data.data) > 1:
        raise InputError(
            f"data must be one source, got {' '.join(data.data)}; prepare each source by itself"
        )
    (source,) = data.data_set.sources
    if source.augmentation in (None, data.augmentation):
        return data
    return dataclasses.replace(data, augmentation=source.augmentation)


def sections(split: str, num_examples: int, images_per_shard: int) -> list[Shard]:
    """Divides the images of a split into shards; the last one has less."""
    starts = range(0, num_examples, images_per_shard)
    return [
        Shard(split, index, len(starts), start, min(start + images_per_shard, num_examples))
        for index, start in enumerate(starts)
    ]


def plan_shards(data: DataOptions, images_per_shard: int) -> list[Shard]:
    """Divides all splits into shards.

    Args:
        data: One source.
        images_per_shard: Number of images of a shard.

    Raises:
        InputError: `images_per_shard` is not a positive multiple of `RECORD_BLOCK_SIZE`, the
            number of images that a tokenizer is given at a time.
    """
    if images_per_shard < 1 or images_per_shard % RECORD_BLOCK_SIZE:
        raise InputError(
            f"images_per_shard must be a multiple of {RECORD_BLOCK_SIZE}, got {images_per_shard}"
        )
    shards = []
    for name in (TRAIN, VALIDATION, TEST):
        split = split_of(data, name)
        if split is not None:
            shards += sections(name, split.num_examples, images_per_shard)
    return shards


def fingerprints_of(data: DataOptions) -> dict[str, str]:
    """Returns the fingerprint of each split, by name."""
    with stage("computing fingerprints of the images"):
        splits = {name: split_of(data, name) for name in (TRAIN, VALIDATION, TEST)}
        return {name: split.fingerprint() for name, split in splits.items() if split is not None}


def digest_of_plan(plan: dict[str, Any]) -> str:
    """Returns a string that changes with the plan."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def begin(output: str, plan: dict[str, Any], manifest: str, overwrite: bool) -> None:
    """Makes the folder of the files, or finds that of the same plan.

    Args:
        output: The folder.
        plan: What the files depend on, as JSON values.
        manifest: Name of the file that is written last.
        overwrite: Whether to remove files of another plan.

    Raises:
        InputError: It has files of another plan, and `overwrite` is false.
        FileExistsError: It has other files.
    """
    with usual_errors():
        tf.io.gfile.makedirs(output)
    existing = read_json_file(os.path.join(output, PLAN_FILE))
    if existing == plan:
        return
    names = [name.rstrip("/") for name in tf.io.gfile.listdir(output)]
    if existing is None and names:
        raise FileExistsError(
            f"{output} is a folder of other things (it holds no {PLAN_FILE}); choose another path"
        )
    if existing is not None and not overwrite:
        changed = next(key for key in {**plan, **existing} if plan.get(key) != existing.get(key))
        raise InputError(
            f"{output} began with {changed}={existing.get(changed)}, got {plan.get(changed)}; "
            "choose another path or overwrite it"
        )
    for name in names:
        if name in (PLAN_FILE, manifest) or SHARD_FILE.match(name) or name.endswith(UNFINISHED):
            tf.io.gfile.remove(os.path.join(output, name))
    write_json_file(os.path.join(output, PLAN_FILE), plan)


@dataclasses.dataclass(frozen=True)
class Finished:
    """What all shards hold.

    Attributes:
        splits: The files of each split, by its name.
        bad_images: Names of the images that were left out, and what is wrong with each.
    """

    splits: dict[str, list[ShardFile]]
    bad_images: dict[str, str]


def finished(work: Work, shards: Sequence[Shard]) -> Finished:
    """Collects the reports of all shards.

    Raises:
        InputError: A shard is missing, or no image of a split could be read.
    """
    splits: dict[str, list[ShardFile]] = {}
    bad_images: dict[str, str] = {}
    for shard in shards:
        report = work.report(shard)
        if report is None:
            raise InputError(f"{work.output} lacks {shard.stem}, although the runner has ended")
        splits.setdefault(shard.split, []).append(
            ShardFile(report.file, report.num_examples, report.bytes, report.sha256)
        )
        bad_images |= report.bad_images
    for split, files in splits.items():
        if not any(file.num_examples for file in files):
            raise InputError(f"{split} of {' '.join(work.data['data'])} holds no image to be read")
    return Finished(splits, bad_images)
