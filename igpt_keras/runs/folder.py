"""The folder of a training that can be gone on with.

| path | what it holds |
| --- | --- |
| `run.json` | what the training was told, and which images (and model) it began with |
| `palette.npy` | its palette |
| `checkpoints/` | while it trains: what it resumes from; see `CheckpointManager` |
| `snapshots/` | of pre-training: models on the way, and the best one; see `Snapshots` |
| `history.jsonl`, `events/` | metrics of every few steps; see `HistoryLogger` |
| `model/`, `result.json` | the trained model and what it reached, once training has ended |
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import filelock

from igpt_keras.atomic import atomic_path, remove_leftovers
from igpt_keras.errors import InputError
from igpt_keras.tokenizers.color_palette import ColorPalette

RUN_FILE = "run.json"
PALETTE_FILE = "palette.npy"
LOCK_FILE = ".lock"
CHECKPOINTS = "checkpoints"
SNAPSHOTS = "snapshots"
FORMAT_VERSION = 2


def create_run(
    folder: str | os.PathLike,
    kind: str,
    about: dict[str, Any],
    palette: ColorPalette,
    overwrite: bool,
) -> None:
    """Begins a run's folder, whole or not at all.

    Args:
        folder: of the run.
        kind: "pretrain" or "finetune".
        about: what it was told, JSON-serializable; `read_run` gives it back.
        palette: of its images.
        overwrite: whether an earlier run is replaced.

    Raises:
        FileExistsError: `folder` exists and `overwrite` is false, or it is no run.
    """
    with atomic_path(folder, overwrite, marker=RUN_FILE) as partial:
        (partial / CHECKPOINTS).mkdir(parents=True)
        palette.save(partial / PALETTE_FILE)
        content = {"format_version": FORMAT_VERSION, "kind": kind, **about}
        (partial / RUN_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_run(folder: str | os.PathLike, kind: str) -> dict[str, Any]:
    """What `create_run` was told.

    Raises:
        InputError: `folder` is no run, or one of another kind or version.
    """
    file = pathlib.Path(folder, RUN_FILE)
    if not file.is_file():
        raise InputError(f"{folder} is not the folder of a run: it holds no {RUN_FILE}")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not valid JSON: {error}") from None
    if about.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{file} has format_version {about.get('format_version')}; this version reads "
            f"{FORMAT_VERSION}"
        )
    if about["kind"] != kind:
        raise InputError(f"{folder} is a run of igpt {about['kind']}, not of igpt {kind}")
    return about


def remove_checkpoints(folder: str | os.PathLike) -> None:
    """To be called when the result of a run is written: nothing goes on from its states then."""
    states = pathlib.Path(folder, CHECKPOINTS)
    if states.exists():
        shutil.rmtree(states)


@contextlib.contextmanager
def only_writer(folder: str | os.PathLike) -> Iterator[None]:
    """Keeps every other process from writing to a run's folder.

    What a process that was killed left half-written there is removed.

    Raises:
        InputError: another process does so already.
    """
    folder = pathlib.Path(folder)
    try:
        lock = filelock.FileLock(folder / LOCK_FILE, timeout=0).acquire()
    except filelock.Timeout:
        raise InputError(f"another process is training in {folder}") from None
    with lock:
        for place in (folder, folder / CHECKPOINTS, folder / SNAPSHOTS):
            remove_leftovers(place)
        yield
