"""The versions of a model, and which of them are wanted."""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

import contextlib
import dataclasses
import os
import pathlib
from typing import Any

from tensorflow_serving.apis import get_model_status_pb2

from serving.server.configuration import ModelConfig

State = get_model_status_pb2.ModelVersionStatus.State


@dataclasses.dataclass
class Version:
    """A version of a model.

    Attributes:
        number: Its number.
        folder: The folder of its SavedModel.
        state: Its state, from LOADING to END.
        servable: The `Servable`, from AVAILABLE to UNLOADING; None otherwise.
        error: Why it could not be loaded; empty if it could.
        files: The files, as `files_in` lists them, that could not be loaded.
        leases: The number of requests that use it.
    """

    number: int
    folder: pathlib.Path
    state: int = State.LOADING
    servable: Any = None
    error: str = ""
    files: tuple = ()
    leases: int = 0


class Model:
    """The versions of a model by number, and the labels that point to them."""

    def __init__(self, config: ModelConfig):
        self.config = config
        self.versions: dict[int, Version] = {}
        self.labels: dict[str, int] = {}

    @property
    def available(self) -> dict[int, Version]:
        """The versions that answer requests, oldest first."""
        return {
            number: version
            for number, version in sorted(self.versions.items())
            if version.state == State.AVAILABLE
        }

    def serves(self, folder: pathlib.Path) -> bool:
        """Returns whether the version in `folder` answers requests."""
        version = self.available.get(int(folder.name))
        return version is not None and version.folder == folder

    def knows_broken(self, folder: pathlib.Path) -> bool:
        """Returns whether the files in `folder` are known not to load."""
        version = self.versions.get(int(folder.name))
        return bool(version and version.error and version.files == files_in(folder))

    def candidates(self, folders: dict[int, pathlib.Path]) -> tuple[list[int], int]:
        """Returns the versions in order of preference, and how many of them to serve."""
        policy = self.config.model_version_policy
        newest_first = sorted(folders, reverse=True)
        kind = policy.WhichOneof("policy_choice")
        if kind == "all":
            return newest_first, len(folders)
        if kind == "specific":
            wanted = [number for number in newest_first if number in policy.specific.versions]
            return wanted, len(wanted)
        return newest_first, max(1, policy.latest.num_versions)


def files_in(folder: pathlib.Path) -> tuple:
    """Returns the files in `folder` with size and time, which change when a file does."""
    found = []
    for directory, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(os.path.join(directory, name))
                found.append((directory, name, status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))
