"""The modules of `examples/baselines/`, imported as its scripts import each other."""

import importlib
import pathlib
import sys

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "baselines"


def opened(name):
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
