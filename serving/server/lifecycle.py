"""The models and versions in memory: loading, serving and unloading them.

States and their order are TensorFlow Serving's (tensorflow_serving/core/servable_state.h): a new
version is loaded before the old one is unloaded, and a version is unloaded when its last request
is done.
"""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

import contextlib
import gc
import logging
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from igpt_keras.errors import InputError
from serving.server.configuration import ModelConfig
from serving.server.errors import RequestError, invalid
from serving.server.servable import Servable
from serving.server.versions import Model, State, Version, files_in
from serving.versions import version_folders

logger = logging.getLogger(__name__)


class ModelManager:
    """Keeps the configured models in memory as the configuration and their folders change.

    Args:
        read_configs: Returns the models' configurations; called again at every poll.
        load: Makes a servable from a model's name, a version's number and its folder.
    """

    def __init__(
        self,
        read_configs: Callable[[], Sequence[ModelConfig]],
        load: Callable[[str, int, pathlib.Path], Servable],
    ):
        self._read_configs = read_configs
        self._load = load
        self._models: dict[str, Model] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._poller: threading.Thread | None = None
        self._unloaded = False
        self._problems: dict[str, str] = {}

    def load_all(self) -> None:
        """Loads the configured models.

        Raises:
            FileNotFoundError: A model's folder does not exist.
            InputError: A model has no version, or none that loads.
        """
        for config in self._read_configs():
            model = self._add(config)
            folders = version_folders(config.base_path)
            broken = self._reconcile(model, folders)
            if not model.available:
                raise InputError(_why_none(model, folders))
            _log_broken(model, broken)

    def poll(self, seconds: float) -> None:
        """Starts a thread that looks for changes at this interval."""

        def work():
            while not self._stopped.wait(seconds):
                self.update()

        self._poller = threading.Thread(target=work, name="model-poller", daemon=True)
        self._poller.start()

    def update(self) -> None:
        """Looks for changes once. A model with a problem stays as it is; the problem is logged."""
        try:
            configs = self._read_configs()
        except (InputError, OSError) as error:
            self._report("", f"the models stay as they were: {error}")
            configs = [model.config for model in self._models.values()]
        for name in set(self._models) - {config.name for config in configs}:
            self._remove(name)
        for config in configs:
            model = self._add(config)
            try:
                folders = version_folders(config.base_path)
                _log_broken(model, self._reconcile(model, folders))
                if not folders:
                    raise InputError(_why_none(model, folders))
            except (InputError, OSError) as error:
                self._report(config.name, f"model {config.name} stays as it was: {error}")
        if self._unloaded:
            # Graphs are full of reference cycles, which hold the weights until collected.
            self._unloaded = False
            gc.collect()

    @contextlib.contextmanager
    def lease(self, spec: model_pb2.ModelSpec) -> Iterator[Servable]:
        """Gives the servable that a request's `model_spec` names, and keeps it in memory meanwhile.

        Raises:
            RequestError: There is none.
        """
        with self._lock:
            version = self._find(spec)
            version.leases += 1
        try:
            yield version.servable
        finally:
            with self._lock:
                version.leases -= 1
            self._finish_unloading(version)

    def statuses(self, spec: model_pb2.ModelSpec) -> list[get_model_status_pb2.ModelVersionStatus]:
        """Returns the states of a model's versions, or of the one whose number `spec` gives.

        A label chooses nothing here, as in TensorFlow Serving.

        Raises:
            RequestError: No such model or version.
        """
        with self._lock:
            model = self._models.get(spec.name)
            versions = dict(sorted(model.versions.items())) if model else {}
            if spec.HasField("version"):
                number = spec.version.value
                if number not in versions:
                    raise RequestError(
                        grpc.StatusCode.NOT_FOUND,
                        f"Could not find version {number} of model {spec.name}",
                    )
                versions = {number: versions[number]}
            if not versions:
                raise RequestError(
                    grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}"
                )
            return [_status(version) for version in versions.values()]

    def available(self) -> dict[str, dict[int, Servable]]:
        """Returns the servables that answer requests, by model and version, oldest first."""
        with self._lock:
            return {
                name: {number: version.servable for number, version in model.available.items()}
                for name, model in self._models.items()
            }

    def offered(self) -> list[tuple[Servable, list[str]]]:
        """Returns the servables that a request without a version or with a label gets.

        Each comes with its labels; they are sorted by the models' names, the newest first.
        """
        with self._lock:
            found = []
            for model in (model for _, model in sorted(self._models.items())):
                available = model.available
                for number in reversed(available):
                    labels = sorted(key for key, value in model.labels.items() if value == number)
                    if labels or number == max(available):
                        found.append((available[number].servable, labels))
            return found

    def close(self) -> None:
        """Unloads everything, each version when its last request is done."""
        self._stopped.set()
        if self._poller:
            self._poller.join()
        for name in list(self._models):
            self._remove(name)

    def _report(self, name: str, problem: str) -> None:
        """Logs a problem once, not at every poll."""
        if self._problems.get(name) != problem:
            logger.error(problem)
        self._problems[name] = problem

    def _add(self, config: ModelConfig) -> Model:
        with self._lock:
            model = self._models.setdefault(config.name, Model(config))
            model.config = config
            return model

    def _remove(self, name: str) -> None:
        with self._lock:
            model = self._models.pop(name)
        for version in model.available.values():
            self._unload(name, version)

    def _find(self, spec: model_pb2.ModelSpec) -> Version:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        model = self._models.get(spec.name)
        available = model.available if model else {}
        if spec.WhichOneof("version_choice") is None:
            if available:
                return list(available.values())[-1]
            asked = f"Latest({spec.name})"
        else:
            number = self._number(spec)
            if number in available:
                return available[number]
            asked = f"Specific({spec.name}, {number})"
        raise RequestError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}")

    def _number(self, spec: model_pb2.ModelSpec) -> int:
        """Returns the version that `spec` names by its number or by a label."""
        if spec.WhichOneof("version_choice") == "version":
            return spec.version.value
        model = self._models.get(spec.name)
        if model is None or spec.version_label not in model.labels:
            raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        return model.labels[spec.version_label]

    def _reconcile(self, model: Model, folders: dict[int, pathlib.Path]) -> list[Version]:
        """Loads and unloads versions until those are served that are wanted and load.

        Returns:
            The versions that turned out to be broken.
        """
        candidates, count = model.candidates(folders)
        served, broken = set(), []
        for number in candidates:
            if len(served) == count:
                break
            folder = folders[number]
            if not model.serves(folder) and not model.knows_broken(folder):
                version = self._load_version(model, folder)
                broken.extend([version] if version.error else [])
            if number in model.available:
                served.add(number)
        self._assign_labels(model)
        # Without a successor, a version stays.
        if served:
            for number, version in model.available.items():
                if number not in served:
                    self._unload(model.config.name, version)
        self._forget(model, folders)
        return broken

    def _load_version(self, model: Model, folder: pathlib.Path) -> Version:
        """Loads the version in `folder`, which is then available or has an error.

        A version of the same number from another folder serves until then, and stays if this one
        is broken.
        """
        name, number, files = model.config.name, int(folder.name), files_in(folder)
        version = Version(number, folder)
        before = model.available.get(number)
        if before is None:
            self._put(model, version)
        try:
            version.servable = self._load(name, number, folder)
        # A broken version, in whatever way it is broken, must not stop the others.
        except Exception as error:
            version.state = State.END
            shown = version if before is None else before
            shown.error, shown.files = str(error), files
            return shown
        version.state = State.AVAILABLE
        self._put(model, version)
        logger.info("version %d of model %s is available", number, name)
        if before is not None:
            self._unload(name, before)
        return version

    def _put(self, model: Model, version: Version) -> None:
        with self._lock:
            model.versions[version.number] = version

    def _assign_labels(self, model: Model) -> None:
        """Moves a label once the version that it should point to is available."""
        wanted = model.config.version_labels
        with self._lock:
            available = model.available
            moved = {label: number for label, number in wanted.items() if number in available}
            kept = {label: number for label, number in model.labels.items() if label in wanted}
            model.labels = kept | moved

    def _unload(self, name: str, version: Version) -> None:
        with self._lock:
            version.state = State.UNLOADING
        logger.info("unloading version %d of model %s", version.number, name)
        self._finish_unloading(version)

    def _finish_unloading(self, version: Version) -> None:
        with self._lock:
            if version.state != State.UNLOADING or version.leases:
                return
            servable, version.servable, version.state = version.servable, None, State.END
        servable.close()
        self._unloaded = True

    def _forget(self, model: Model, folders: dict[int, pathlib.Path]) -> None:
        """Drops the versions that have ended and whose folders are gone."""
        with self._lock:
            ended = [
                number
                for number, version in model.versions.items()
                if version.state == State.END and number not in folders
            ]
            for number in ended:
                del model.versions[number]


def _status(version: Version) -> get_model_status_pb2.ModelVersionStatus:
    # REST shows the status also when there is no error.
    status = get_model_status_pb2.ModelVersionStatus(
        version=version.number, state=version.state, status={}
    )
    if version.error:
        status.status.error_code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
        status.status.error_message = version.error
    return status


def _log_broken(model: Model, broken: Sequence[Version]) -> None:
    for version in broken:
        name, number = model.config.name, version.number
        logger.error("version %d of model %s cannot be loaded: %s", number, name, version.error)


def _why_none(model: Model, folders: dict[int, pathlib.Path]) -> str:
    errors = [version.error for version in model.versions.values() if version.error]
    if errors:
        return errors[0]
    if folders:
        return (
            f"directory {model.config.base_path} holds none of the versions "
            f"{list(model.config.model_version_policy.specific.versions)}"
        )
    return (
        f"directory {model.config.base_path} holds no version: a folder named by a number, "
        "as export writes it"
    )
