"""Reading files safely: regular ones only, up to a size, and digests of their content."""

import concurrent.futures
import functools
import hashlib
import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from igpt_keras.errors import InputError
from igpt_keras.file_systems import is_url, usual_errors

# No image of a sensible data set is larger; a file or member that is would fill the memory.
MAX_IMAGE_BYTES = 256 << 20
# A compressed file may hold this many times its size, and this many bytes in any case.
MAX_EXPANSION, ALWAYS_ALLOWED_BYTES = 100, 1 << 30
# Larger contents are compared by this many blocks, evenly spaced from the first to the last.
NUM_BLOCKS, BLOCK_BYTES = 16, 16 << 10
DIGESTS_AT_A_TIME, DIGEST_THREADS = 4096, 8
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class UnreadableFile(InputError):
    """A file, or a part of one, that is not read.

    Attributes:
        name: Its path or name.
        reason: What is wrong with it, such as "it is a named pipe, not a regular file".
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name} cannot be read: {reason}")
        self.name = name
        self.reason = reason


class Part(NamedTuple):
    """A part of a file.

    Attributes:
        path: Path of the file.
        offset, size: Where the part lies, in bytes; None for all that follows `offset`.
    """

    path: str
    offset: int = 0
    size: int | None = None


class FileState(NamedTuple):
    """What is known of a file without reading it: type, bytes, when it was written, which it is."""

    mode: int
    size: int
    times: tuple[int, ...]
    inode: int


def printable(name: str) -> str:
    """Returns a path for people: bytes that are not UTF-8 are written as hex escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def check_regular(path: str | os.PathLike) -> int:
    """Returns the size of a regular file, which is not opened for that; links are followed.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        UnreadableFile: `path` is a folder, a named pipe, a socket or a device.
    """
    status = _state(os.fspath(path))
    if not stat.S_ISREG(status.mode):
        kind = KINDS.get(stat.S_IFMT(status.mode), "something else")
        raise UnreadableFile(printable(os.fspath(path)), f"it is {kind}, not a regular file")
    return status.size


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Opens a regular file for reading, unbuffered.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        UnreadableFile: `path` is something else; it is not opened.
    """
    check_regular(path)
    if is_url(path):
        import tensorflow as tf

        remote: Any = tf.io.gfile.GFile(os.fspath(path), "rb")
        return remote
    return open(path, "rb", buffering=0, opener=_open_without_waiting)


def check_size(size: int, name: str) -> None:
    """Raises `UnreadableFile` for an image file of more than `MAX_IMAGE_BYTES`."""
    if size > MAX_IMAGE_BYTES:
        raise UnreadableFile(
            name, f"it has {size:,} bytes, and an image has {MAX_IMAGE_BYTES:,} at most"
        )


def read_image_file(path: str | os.PathLike) -> bytes:
    """Returns the content of an image file.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        UnreadableFile: `path` is not a regular file, or has more than `MAX_IMAGE_BYTES`.
    """
    name = printable(os.fspath(path))
    check_size(check_regular(path), name)
    with open_regular(path) as file:
        content = file.read(MAX_IMAGE_BYTES + 1)
    check_size(len(content), name)
    return content


def states_digest(paths: Iterable[str]) -> bytes:
    """Returns a digest that changes whenever one of the files may have been written."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(repr(_state(path)).encode())
    return digest.digest()


def whole_file_digest(path: str) -> bytes:
    """Returns the digest of every byte of a file, which is read once while it stays the same."""
    return _whole_file_digest(path, states_digest([path]))


def content_digests(parts: Iterable[Part]) -> Iterator[bytes]:
    """Yields the digest of the content of every part, in order; see `update_with_content`."""
    parts = iter(parts)
    with concurrent.futures.ThreadPoolExecutor(DIGEST_THREADS) as threads:
        while block := list(itertools.islice(parts, DIGESTS_AT_A_TIME)):
            yield from threads.map(_content_digest, block)


def update_with_content(digest: Any, file: Any, offset: int, size: int) -> None:
    """Adds the size and the content of a part of an open file to a digest of `hashlib`.

    A part of up to `NUM_BLOCKS` · `BLOCK_BYTES` counts with every byte, a larger one with that
    many blocks from its first to its last.
    """
    digest.update(f"{size}\n".encode())
    if size <= NUM_BLOCKS * BLOCK_BYTES:
        file.seek(offset)
        digest.update(file.read(size))
        return
    for block in range(NUM_BLOCKS):
        file.seek(offset + block * (size - BLOCK_BYTES) // (NUM_BLOCKS - 1))
        digest.update(file.read(BLOCK_BYTES))


@functools.lru_cache(maxsize=4096)
def _whole_file_digest(path: str, state: bytes) -> bytes:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.digest()


def _content_digest(part: Part) -> bytes:
    digest = hashlib.sha256()
    with open_regular(part.path) as file:
        size = part.size
        if size is None:
            size = check_regular(part.path) - part.offset
        update_with_content(digest, file, part.offset, size)
    return digest.digest()


def _state(path: str) -> FileState:
    """Returns what is known of a file without reading it.

    Raises:
        FileNotFoundError: There is nothing at `path`.
    """
    if not is_url(path):
        status = os.stat(path)
        times = (status.st_mtime_ns, status.st_ctime_ns)
        return FileState(status.st_mode, status.st_size, times, status.st_ino)
    import tensorflow as tf

    with usual_errors():
        remote = tf.io.gfile.stat(path)
    mode = stat.S_IFDIR if remote.is_directory else stat.S_IFREG
    return FileState(mode, remote.length, (remote.mtime_nsec,), 0)


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a file for `open`; one that became a named pipe meanwhile does not hang."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
