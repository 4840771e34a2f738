"""The folder of a run.

| path | content |
| --- | --- |
| `run.json` | settings of a training, and fingerprints of its images (and model) |
| `tokenizer.json`, … | tokenizer of a training; at its end, the tokenizer that was trained |
| `SHA256SUMS` | checksums of these files |
| `options.json` | options that changed when the run was resumed: where its images are |
| `checkpoints/` | what an unfinished training resumes from; see `CheckpointManager` |
| `snapshots/` | models on the way of pre-training, and the best one; see `Snapshots` |
| `history.jsonl`, `events/` | metrics every few steps; see `HistoryLogger` |
| `model/` | the trained model, once training has ended |
| `probe.npz` | the linear probe of the best layer |
| `confusions.png` | images of the most frequent errors of a probe or classifier |
| `result.json` | what a finished run measured; see `Result` |
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import filelock

from igpt_keras.atomic import atomic_path, remove_leftovers
from igpt_keras.checksums import find_damage, write_checksums
from igpt_keras.errors import InputError
from igpt_keras.json_files import read_json, read_object, write_json
from igpt_keras.tokenizers import ImageTokenizer

RUN_FILE = "run.json"
OPTIONS_FILE = "options.json"
RESULT_FILE = "result.json"
PROBE_FILE = "probe.npz"
CONFUSIONS_FILE = "confusions.png"
LOCK_FILE = ".lock"
CHECKPOINTS = "checkpoints"
SNAPSHOTS = "snapshots"
FORMAT_VERSION = 3


def create_run(
    folder: str | os.PathLike,
    kind: str,
    content: dict[str, Any],
    tokenizer: ImageTokenizer | None,
    overwrite: bool,
) -> None:
    """Creates the folder of a training, whole or not at all.

    Args:
        folder: The run's folder.
        kind: The words of the command, such as "pretrain" or "tokenizer fit vqvae".
        content: JSON values, which `read_run` returns.
        tokenizer: The tokenizer of the run's images; None where the run trains one.
        overwrite: Whether to replace an earlier run.

    Raises:
        FileExistsError: `folder` exists, and `overwrite` is false or it is not a run.
        InputError: Another process writes to the run in `folder`.
    """
    with only_replacer(folder), atomic_path(folder, overwrite, marker=RUN_FILE) as partial:
        (partial / CHECKPOINTS).mkdir(parents=True)
        if tokenizer is not None:
            tokenizer.save_to_preset(partial)
        write_json(partial / RUN_FILE, {"format_version": FORMAT_VERSION, "kind": kind, **content})
        write_checksums(partial)


def read_run(folder: str | os.PathLike, kind: str) -> dict[str, Any]:
    """Returns the content that `create_run` was given.

    Raises:
        InputError: `folder` is not a run, one that is damaged, or one of another kind or format
            version.
    """
    file = pathlib.Path(folder, RUN_FILE)
    if not file.is_file():
        raise InputError(f"{folder} is not the folder of a run: it holds no {RUN_FILE}")
    damage = find_damage(folder, RUN_FILE)
    if damage is not None:
        raise InputError(f"{folder} is damaged, or of another version: {damage}")
    content = read_json(file)
    if content.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{file} has format_version {content.get('format_version')}; this version reads "
            f"{FORMAT_VERSION}"
        )
    if content["kind"] != kind:
        raise InputError(f"{folder} is a run of igpt {content['kind']}, not of igpt {kind}")
    changed = pathlib.Path(folder, OPTIONS_FILE)
    if changed.is_file():
        content["options"] |= read_object(changed)
    return content


def only_replacer(folder: str | os.PathLike) -> contextlib.AbstractContextManager[None]:
    """Keeps other processes from writing to a run that is replaced, if there is one.

    Raises:
        InputError: Another process is writing to it.
    """
    is_run = pathlib.Path(folder, RUN_FILE).exists()
    return only_writer(folder) if is_run else contextlib.nullcontext()


def update_options(folder: str | os.PathLike, options: dict[str, Any]) -> None:
    """Changes some of the options of a run, to resume it with them from now on.

    Args:
        folder: The run's folder.
        options: The new values by name; `run.json` stays as it was.
    """
    write_json(pathlib.Path(folder, OPTIONS_FILE), options)


@contextlib.contextmanager
def only_writer(folder: str | os.PathLike) -> Iterator[None]:
    """Keeps other processes from writing to a run, and removes what a killed one left half-written.

    Raises:
        InputError: Another process is writing to it.
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
