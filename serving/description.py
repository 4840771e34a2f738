"""`assets/igpt.json` of an export: what a page says about a model before anybody asks it."""

import dataclasses
import pathlib
from typing import Any

from igpt_keras.errors import InputError
from igpt_keras.json_files import read_object, write_json

DESCRIPTION_FILE = "igpt.json"
# Whoever wrote an export may have written anything. The names of 100,000 classes take half of it.
MAX_BYTES = 4 << 20
MAX_IMAGE_SIZE = 4096


@dataclasses.dataclass(frozen=True)
class Description:
    """What an export holds.

    Attributes:
        image_size: The side of the model's images in pixels; None if unknown.
        description: The sizes of the models in words.
        class_names: The names of the classes that images are classified into, in the order of the
            logits.
        label_names: The names of the classes that a class-conditional model samples, in the order
            of its labels.
    """

    image_size: int | None = None
    description: str = ""
    class_names: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()

    def write(self, path: pathlib.Path) -> None:
        """Writes the file."""
        values = dataclasses.asdict(self)
        if not self.label_names:
            del values["label_names"]
        write_json(path, values)

    @classmethod
    def read(cls, path: pathlib.Path) -> "Description":
        """Reads the file; an export of another program has none, and is not described.

        Raises:
            InputError: The file does not hold what `write` has written.
        """
        if not path.is_file():
            return cls()
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path} must have at most {MAX_BYTES:,} bytes, got {size:,}")
        values = read_object(path)
        side, text = values.get("image_size"), values.get("description")
        if not isinstance(side, int) or isinstance(side, bool) or not 1 <= side <= MAX_IMAGE_SIZE:
            raise InputError(f"{path}: image_size must be an integer from 1 to {MAX_IMAGE_SIZE}")
        if not isinstance(text, str):
            raise InputError(f"{path}: description must be a string")
        names = {"label_names": [], **values}
        return cls(side, text, *(_strings(names, n, path) for n in ("class_names", "label_names")))


def _strings(values: dict[str, Any], name: str, path: pathlib.Path) -> tuple[str, ...]:
    names = values.get(name)
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise InputError(f"{path}: {name} must be a list of strings")
    return tuple(names)
