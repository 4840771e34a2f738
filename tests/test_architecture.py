"""Imports point down, and modules and functions are short."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
# From the top down; rooms in one line do not import each other.
FRONT = "igpt_keras"
ROOMS = [
    [FRONT],
    ["igpt_keras.__main__"],
    ["igpt_keras.cli"],
    ["serving", "tuning"],
    ["igpt_keras.report", "igpt_keras.pipelines"],
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
    ["igpt_keras.file_systems", "igpt_keras.json_files"],
    ["igpt_keras.atomic", "igpt_keras.checksums", "igpt_keras.disk_space"],
    ["igpt_keras.extras", "igpt_keras.model_cards", "igpt_keras.registry"],
    [
        *("igpt_keras.paper", "igpt_keras.errors", "igpt_keras.tensors"),
        *("igpt_keras.short_repr", "igpt_keras.stages", "igpt_keras.wording"),
    ],
]
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
# These run on any Keras backend, so they do not import TensorFlow when they are imported.
WITHOUT_TENSORFLOW = [
    "igpt_keras.atomic",
    "igpt_keras.convert.huggingface",
    "igpt_keras.saving",
    "igpt_keras.sampling",
    "igpt_keras.network",
    "igpt_keras.models.image_gpt",
    "igpt_keras.models.classifier",
    "igpt_keras.models.generative_model",
    "igpt_keras.models.sharding",
    "igpt_keras.tokenizers",
]
# What is for TensorFlow only, and what others import only where Keras runs on it.
FOR_TENSORFLOW = {
    "igpt_keras.sampling.backends.on_tensorflow",
    "igpt_keras.sampling.block_functions",
    "igpt_keras.sampling.in_graph",
}
PACKAGES = ("igpt_keras", "serving", "tuning")
MODULES = sorted(path for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py"))
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 400, 60


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module):
    rooms = (room for room in LEVELS if room != FRONT and (module + ".").startswith(room + "."))
    return next(rooms, FRONT if module == FRONT else None)


def is_for_type_checkers(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def statements(nodes):
    """All statements that run, those inside functions included."""
    for node in nodes:
        if not is_for_type_checkers(node):
            yield node
            yield from statements(ast.iter_child_nodes(node))


def imported(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def test_imports_point_down():
    violations = []
    for path in MODULES:
        module, room = name_of(path), room_of(name_of(path))
        for name in imported(statements(parsed(path).body)):
            # What is in no room is a name of the front.
            other = room_of(name) or (FRONT if name.startswith(FRONT + ".") else None)
            if other not in (None, room) and LEVELS[other] <= LEVELS[room]:
                violations.append(f"{module} imports {name}")
    assert not violations


def test_every_module_is_in_a_room():
    assert {name_of(path) for path in MODULES if room_of(name_of(path)) is None} == set()


def test_network_models_and_sampling_do_not_need_tensorflow():
    violations = [
        name_of(path)
        for path in MODULES
        if name_of(path).startswith(tuple(WITHOUT_TENSORFLOW))
        and name_of(path) not in FOR_TENSORFLOW
        and any(name.partition(".")[0] == "tensorflow" for name in imported(parsed(path).body))
    ]
    assert not violations


def lines_of(node):
    """Lines of a function without its docstring."""
    docstring = ast.get_docstring(node, clean=False)
    return node.end_lineno - node.lineno + 1 - len((docstring or "").splitlines())


def test_modules_and_functions_are_short():
    violations = []
    for path in MODULES:
        length = len(path.read_text(encoding="utf-8").splitlines())
        if length > MAX_MODULE_LINES:
            violations.append(f"{name_of(path)}: {length} lines")
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if lines_of(node) > MAX_FUNCTION_LINES:
                    violations.append(f"{name_of(path)}.{node.name}: {lines_of(node)} lines")
    assert not violations


def test_links_between_pages_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    broken = []
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert len(pages) > 10
    assert not broken
