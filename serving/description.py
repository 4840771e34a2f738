"""`assets/igpt.json` of an export: what a page says about a model before anybody asks it."""

import dataclasses
import pathlib

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
        class_names: The names of a classifier's classes, in the order of its logits.
    """

    image_size: int | None = None
    description: str = ""
    class_names: tuple[str, ...] = ()

    def write(self, path: pathlib.Path) -> None:
        """Writes the file."""
        write_json(path, dataclasses.asdict(self))

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
        side, text, names = (values.get(field.name) for field in dataclasses.fields(cls))
        if not isinstance(side, int) or isinstance(side, bool) or not 1 <= side <= MAX_IMAGE_SIZE:
            raise InputError(f"{path}: image_size must be an integer from 1 to {MAX_IMAGE_SIZE}")
        if not isinstance(text, str):
            raise InputError(f"{path}: description must be a string")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{path}: class_names must be a list of strings")
        return cls(side, text, tuple(names))
