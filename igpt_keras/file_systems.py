"""Files on any file system that TensorFlow knows, by paths such as `gs://bucket/folder/file`.

`s3://` needs a plug-in of TensorFlow. Files appear whole or not at all, as with
`igpt_keras.atomic`: an object store shows an object when it is complete, and elsewhere a file is
written under another name and renamed.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

from igpt_keras.atomic import SUFFIX
from igpt_keras.errors import InputError

BLOCK_SIZE = 1 << 20


def is_url(path: str | os.PathLike) -> bool:
    """Whether a path names its file system, as in `gs://bucket/folder`."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def usual_errors() -> Iterator[None]:
    """Raises TensorFlow's errors of file systems as those that Python has for them.

    Raises:
        FileNotFoundError: There is no such file or folder.
        InputError: TensorFlow does not know the file system.
        OSError: Anything else that went wrong.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(error.message) from None
    except tf.errors.UnimplementedError as error:
        raise InputError(f"{error.message}; TensorFlow may need a plug-in for it") from None
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def expanded(path: str | os.PathLike) -> str:
    """Returns a path with the home folder for "~" at its beginning, without a "/" at its end."""
    path = os.fspath(path)
    return path.rstrip("/") if is_url(path) else os.path.normpath(os.path.expanduser(path))


@contextlib.contextmanager
def replaced_file(path: str) -> Iterator[str]:
    """Yields the path of a temporary file that becomes `path` when the block succeeds.

    Several processes may write the same file; the last one wins.
    """
    import tensorflow as tf

    folder, name = os.path.split(path)
    partial = os.path.join(folder, f".{name}.{uuid.uuid4().hex}{SUFFIX}")
    try:
        yield partial
        tf.io.gfile.rename(partial, path, overwrite=True)
    except BaseException:
        if tf.io.gfile.exists(partial):
            tf.io.gfile.remove(partial)
        raise


def write_json_file(path: str, value: Any) -> None:
    """Writes `value` to `path`, replacing an earlier file."""
    import tensorflow as tf

    with replaced_file(path) as partial, tf.io.gfile.GFile(partial, "w") as file:
        file.write(json.dumps(value, indent=2) + "\n")


def read_json_file(path: str) -> dict[str, Any] | None:
    """Returns the JSON object in a file; None if there is no such file.

    Raises:
        InputError: The file holds something else.
    """
    import tensorflow as tf

    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def file_digest(path: str) -> tuple[int, str]:
    """Returns the size of a file in bytes and its SHA-256 digest."""
    import tensorflow as tf

    digest, size = hashlib.sha256(), 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(BLOCK_SIZE):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


@contextlib.contextmanager
def local_copy(folder: str) -> Iterator[pathlib.Path]:
    """Yields a local folder with the files of `folder`: itself, or a temporary copy."""
    import tensorflow as tf

    if not is_url(folder):
        yield pathlib.Path(folder)
        return
    with tempfile.TemporaryDirectory() as local:
        for name in tf.io.gfile.listdir(folder):
            source = os.path.join(folder, name)
            if not tf.io.gfile.isdir(source):
                tf.io.gfile.copy(source, os.path.join(local, name))
        yield pathlib.Path(local)
