"""The Dockerfile: pinned, without rights or secrets, and with all that the package is made of."""

import configparser
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
HADOLINT = pathlib.Path(sys.executable).with_name("hadolint")


@pytest.fixture(scope="module")
def instructions():
    """Instructions and their arguments, in order."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def values_of(instructions, name):
    return [value for instruction, value in instructions if instruction == name]


def test_the_base_is_pinned_by_version_and_digest(instructions):
    arguments = dict(value.split("=", 1) for value in values_of(instructions, "ARG"))
    bases = [value.split()[0] for value in values_of(instructions, "FROM")]
    assert set(bases) == {"${PYTHON}"}
    pinned = r"python:3\.(\d+)\.\d+-slim-\w+@sha256:[0-9a-f]{64}"
    minor = int(re.fullmatch(pinned, arguments["PYTHON"])[1])
    assert 10 <= minor <= 13


def test_the_image_runs_igpt_without_rights_and_holds_no_secrets(instructions):
    last = max(index for index, (name, _) in enumerate(instructions) if name == "FROM")
    final = instructions[last:]
    (user,) = values_of(final, "USER")
    assert all(int(part) > 0 for part in user.split(":"))
    assert values_of(final, "ENTRYPOINT") == ['["igpt"]']
    assert not values_of(final, "RUN"), "only the build runs as root"
    assert all(value.startswith("--from=build /venv ") for value in values_of(final, "COPY"))
    assert not values_of(instructions, "ADD")
    names = " ".join(values_of(instructions, "ARG") + values_of(instructions, "ENV"))
    assert not re.search("(?i)secret|token|password|key", names)


def test_the_build_gets_the_package_and_nothing_else(instructions, setup):
    copied = [
        source
        for value in values_of(instructions, "COPY")
        if not value.startswith("--from")
        for source in value.split()[:-1]
    ]
    first, *ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n*\n")
    assert first.startswith("#")
    allowed = [line[1:] for line in ignored[0].splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(allowed)
    assert all((ROOT / source).exists() for source in copied)
    packages = setup["options.packages.find"]["include"].split()
    assert {package.rstrip("*") for package in packages} <= set(copied)
    # setup.py reads the last three.
    assert {setup["metadata"]["license_files"], "setup.py", "setup.cfg", "README.md"} <= set(copied)


def test_it_installs_what_setup_cfg_allows(instructions, setup):
    arguments = dict(
        value.split("=", 1) for value in values_of(instructions, "ARG") if "=" in value
    )
    assert set(arguments["EXTRAS"].split(",")) <= set(setup["options.extras_require"])
    needs = setup["options"]["install_requires"].replace(" ", "").split()
    (install,) = values_of(instructions, "RUN")
    (bounds,) = re.findall(r'"\$\{TENSORFLOW\}(.+?)"', install)
    assert arguments["TENSORFLOW"] + bounds in needs


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is not installed")
def test_hadolint_finds_nothing():
    result = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")
