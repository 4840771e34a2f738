"""Checksums that tell whether files are as they were written, and arrays the same."""

import hashlib
import os
import pathlib
import re
from collections.abc import Iterable

import numpy as np

CHECKSUM_FILE = "SHA256SUMS"
LINE = re.compile(rb"^[0-9a-f]{64}  ([^\0\n]+)$", re.MULTILINE)
BLOCK_SIZE = 1 << 20


def write_checksums(folder: str | os.PathLike) -> None:
    """Writes `folder`/SHA256SUMS with the checksums of all files in it, as `sha256sum` does."""
    folder = pathlib.Path(folder)
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    (folder / CHECKSUM_FILE).write_bytes(_lines(folder, names))


def find_damage(folder: str | os.PathLike, *required: str) -> str | None:
    """Compares the files of a folder with its checksums; files without one are not read.

    Args:
        folder: The folder.
        *required: Names of files that must have a checksum.

    Returns:
        What is wrong, in words; None if every file is as it was written.
    """
    folder = pathlib.Path(folder)
    try:
        content = (folder / CHECKSUM_FILE).read_bytes()
        names = [os.fsdecode(name) for name in LINE.findall(content)]
        for name in names:
            if _lines(folder, [name]) not in content:
                return f"{name} is not as it was written"
        if content != _lines(folder, names) or not {*required} <= {*names}:
            return f"{CHECKSUM_FILE} is not as it was written"
    except OSError as error:
        return f"{error.filename or folder} cannot be read ({error.strerror})"
    return None


def digest_of_arrays(arrays: Iterable[np.ndarray]) -> str:
    """Returns a string that changes with every shape and number of `arrays`."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _lines(folder: pathlib.Path, names: list[str]) -> bytes:
    return b"".join(
        b"%s  %s\n" % (_digest(folder / name).encode(), os.fsencode(name)) for name in names
    )


def _digest(file: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK_SIZE):
            digest.update(block)
    return digest.hexdigest()
