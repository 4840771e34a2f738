"""What sources of files share: which files are images, and naming what is left out."""

import collections
import glob
import os
import warnings
from collections.abc import Iterable

import numpy as np
from PIL import Image

from igpt_keras.data.files import check_regular, printable
from igpt_keras.errors import InputError, InputWarning
from igpt_keras.file_systems import is_url, usual_errors

# Formats that Pillow recognizes, but decodes only with help from outside.
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# More classes than any data set has: a damaged label must not make names for billions.
MAX_CLASSES = 1_000_000
NUM_NAMED, NUM_REASONS = 3, 8


class LeftOut:
    """What a source leaves out, to be counted and named in one warning.

    Args:
        source: The source, such as "folder:photos".
    """

    def __init__(self, source: str):
        self._source = source
        self._counts: collections.Counter[str] = collections.Counter()
        self._names: dict[str, list[str]] = {}
        self._notes: list[str] = []

    def add(self, reason: str, *names: str) -> None:
        """Adds files or folders; `reason` says what they are, with "{s}" for their plural."""
        if names:
            self._counts[reason] += len(names)
            named = self._names.setdefault(reason, [])
            named.extend(names[: NUM_NAMED - len(named)])

    def add_file(self, name: str) -> None:
        """Adds a file that is not an image, unless it is hidden."""
        base = os.path.basename(name)
        if not base.startswith("."):
            suffix = os.path.splitext(base)[1].lower()
            self.add(f"{suffix} file{{s}}" if suffix else "file{s} without a suffix", name)

    def note(self, text: str) -> None:
        """Adds a sentence about what is not taken for what it may have been meant as."""
        self._notes.append(text)

    def warn(self) -> None:
        """Warns once of everything, with `InputWarning`."""
        sentences = [f"left out {self}"] if self._counts else []
        sentences += self._notes
        if sentences:
            text = f"{self._source}: {'; '.join(sentences)}"
            warnings.warn(printable(text), InputWarning, stacklevel=3)

    def __str__(self) -> str:
        reasons = self._counts.most_common()
        parts = [self._described(reason, count) for reason, count in reasons[:NUM_REASONS]]
        if rest := sum(count for _, count in reasons[NUM_REASONS:]):
            parts.append(f"{rest:,} others")
        return ", ".join(parts)

    def _described(self, reason: str, count: int) -> str:
        named = ", ".join(self._names[reason]) + (", …" if count > NUM_NAMED else "")
        return f"{count:,} {reason.format(s='s' if count > 1 else '')} ({named})"


def image_suffixes() -> set[str]:
    """Returns the suffixes of the formats that Pillow decodes, those of its plug-ins included."""
    Image.init()
    return {
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and kind not in NOT_DECODED
    }


def is_image(name: str, suffixes: set[str]) -> bool:
    """Whether a file of this name is taken for an image; hidden files are not."""
    name = os.path.basename(name)
    return os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")


def matching_files(pattern: str) -> list[str]:
    """Returns the files whose paths match a pattern with `*`, `?` and `[…]`, sorted.

    Folders are left out.

    Raises:
        FileNotFoundError: No file matches.
        InputError: What matches is a named pipe, a socket or a device.
    """
    if is_url(pattern):
        return _matching_remote_files(pattern)
    pattern = os.path.expanduser(pattern)
    # A file may have one of the pattern's signs in its name.
    found = [pattern] if os.path.exists(pattern) else glob.glob(pattern)
    files = sorted(path for path in found if not os.path.isdir(path))
    if not files:
        raise FileNotFoundError(f"{pattern} matches no file")
    for path in files:
        check_regular(path)
    return files


def _matching_remote_files(pattern: str) -> list[str]:
    import tensorflow as tf

    with usual_errors():
        files = sorted(path for path in tf.io.gfile.glob(pattern) if not tf.io.gfile.isdir(path))
    if not files:
        raise FileNotFoundError(f"{pattern} matches no file")
    return files


def numbered_classes(labels: Iterable[int] | np.ndarray, source: str) -> list[str]:
    """Returns names for the classes of labels that are numbers from 0 on: "0" and so on.

    Raises:
        InputError: A label is `MAX_CLASSES` or more.
    """
    largest = int(np.max(np.asarray(labels)))
    if largest >= MAX_CLASSES:
        raise InputError(f"{source} must have labels below {MAX_CLASSES:,}, got {largest:,}")
    return [str(label) for label in range(largest + 1)]


def listed(names: Iterable[str]) -> str:
    """Returns names in order, with commas between them."""
    return ", ".join(sorted(names))
