"""Imports point down the list of rooms in docs/architecture.md."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# From the top down; rooms in one line do not import each other.
ROOMS = [
    ["igpt_keras.__main__"],
    ["igpt_keras.cli"],
    ["serving", "tuning"],
    ["igpt_keras.report"],
    ["igpt_keras.runs"],
    ["igpt_keras.evaluation"],
    ["igpt_keras.training"],
    ["igpt_keras.data"],
    ["igpt_keras.models"],
    ["igpt_keras.saving"],
    ["igpt_keras.convert"],
    ["igpt_keras.sampling"],
    ["igpt_keras.network"],
    ["igpt_keras.tokenizers", "igpt_keras.pictures"],
    ["igpt_keras.json_files"],
    ["igpt_keras.atomic", "igpt_keras.extras", "igpt_keras.registry"],
    ["igpt_keras.paper", "igpt_keras.errors"],
]
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
# These run on any backend, so TensorFlow may not be installed.
WITHOUT_TENSORFLOW = [
    "igpt_keras.atomic",
    "igpt_keras.convert.huggingface",
    "igpt_keras.saving",
    "igpt_keras.network",
    "igpt_keras.models.image_gpt",
    "igpt_keras.models.classifier",
    "igpt_keras.models.generative_model",
    "igpt_keras.models.sharding",
    "igpt_keras.tokenizers",
]
PACKAGES = ("igpt_keras", "serving", "tuning")
MODULES = sorted(path for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module):
    return next((r for r in LEVELS if module == r or module.startswith(r + ".")), None)


def imports(path):
    yield from imports_of(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports_of(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    module, room = name_of(path), room_of(name_of(path))
    if module == "igpt_keras":
        return
    assert room is not None, f"{module} is in no room"
    for imported in imports(path):
        other = room_of(imported)
        if other not in (None, room):
            assert LEVELS[other] > LEVELS[room], f"{module} imports {imported}"
    if module.startswith(tuple(WITHOUT_TENSORFLOW)):
        at_import = imports_of(ast.parse(path.read_text(encoding="utf-8")).body)
        assert "tensorflow" not in {imported.partition(".")[0] for imported in at_import}
