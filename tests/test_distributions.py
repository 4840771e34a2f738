"""What `python -m build` makes holds all of the project, and installs."""

import email
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Not part of the project, or made by its tools.
LEFT_OUT = ("igpt_keras.egg-info", "PKG-INFO", "setup.cfg")


def run(*command, **options):
    result = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=600, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def files():
    """The files under version control."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, which knows the project's files")
    return {pathlib.Path(name) for name in run("git", "ls-files", cwd=ROOT).splitlines()}


@pytest.fixture(scope="module")
def distributions(files, tmp_path_factory):
    """An sdist, and the wheel that is built from it."""
    source = tmp_path_factory.mktemp("source")
    for file in files:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, source / file)
    output = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", output, source)
    (sdist,), (wheel,) = output.glob("*.tar.gz"), output.glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_the_sdist_holds_the_project(distributions, files):
    sdist, _ = distributions
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
    packed = {pathlib.Path(*pathlib.Path(member.name).parts[1:]) for member in members}
    assert files <= packed
    assert {file for file in packed - files if file.parts[0] not in LEFT_OUT} == set()


@pytest.mark.slow
def test_the_wheel_installs_and_holds_the_files_for_deployment(distributions, files, tmp_path):
    _, wheel = distributions
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-I", "-m", "pip", "install", "--no-deps", wheel, "click>=8.1", "wrapt", "filelock")
    assert run(python, "-I", "-m", "igpt_keras", "--version").startswith("igpt, version")
    program = "import igpt_keras; print(igpt_keras.__path__[0])"
    installed = pathlib.Path(run(python, "-I", "-c", program).strip()).parent
    for file in files:
        if file.parts[0] in ("igpt_keras", "serving", "tuning"):
            assert (installed / file).read_bytes() == (ROOT / file).read_bytes()


@pytest.mark.slow
def test_the_links_of_the_description_lead_to_the_repository(distributions):
    _, wheel = distributions
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL"))
    described = metadata.get_payload(decode=True).decode()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    link = r"(!?)\[[^\]]*\]\(([^)]*)\)"
    links, written = re.findall(link, described), re.findall(link, readme)
    assert len(links) == len(written) > 20
    for (image, target), (_, before) in zip(links, written, strict=True):
        if before.startswith("https://"):
            assert target == before
            continue
        start = f"{urls['Source']}/{'raw' if image else 'blob'}/main/"
        assert target == start + before
        assert (ROOT / before.partition("#")[0]).is_file(), before
    assert {image for image, _ in links} == {"", "!"}
    assert re.sub(link, "", described).strip() == re.sub(link, "", readme).strip()
