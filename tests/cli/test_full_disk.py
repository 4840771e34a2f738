"""Every command that writes, on a disk that is full sooner or later."""

import pathlib
import subprocess

import pytest
from PIL import Image

from igpt_keras.atomic import SUFFIX

PAGE = 4096
SIZES = ["--image-size", 8, "--num-colors", 8, "--num-layers", 2, "--hidden-dim", 32]
SIZES += ["--num-heads", 2, "--batch-size", 16]
DIGITS = ["--data", "digits"]
TRAINING = ["--steps", 20, "--checkpoint-every", 3, "--log-every", 2, "--snapshots", 2]
FEW_LABELS = ["--labels-per-class", 5]


class Disk:
    """A file system in memory with some free pages."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.pages = 0
        self.output = folder / "output"

    def mount(self, pages: int):
        """An empty one; one without a limit would have the size of the memory."""
        self.unmount()
        options = f"size={max(pages, 1) * PAGE}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], check=True)
        self.pages = pages
        if not pages:
            (self.folder / "full").write_bytes(bytes(PAGE))

    def grow(self):
        subprocess.run(["mount", "-o", "remount,size=100m", self.folder], check=True)

    def files(self):
        """Contents by path, and unfinished folders."""
        paths = [path for path in self.folder.rglob("*") if path.name != "full"]
        unfinished = {path: None for path in paths if path.name.endswith(SUFFIX)}
        return {path: path.read_bytes() for path in paths if path.is_file()} | unfinished

    def unmount(self):
        # What a failed command still holds open goes with the process.
        subprocess.run(["umount", "--quiet", "--lazy", self.folder], check=False)


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = Disk(folder)
    try:
        disk.mount(1)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this process may not mount a file system: {error}")
    yield disk
    disk.unmount()


@pytest.fixture(scope="module")
def trained(igpt, tmp_path_factory):
    """The folders of a model, of a classifier and of the model for Transformers, and an image."""
    folder = tmp_path_factory.mktemp("trained")
    commands = [
        ["pretrain", *DIGITS, *SIZES, "--steps", 4, "--output", folder / "model"],
        ["finetune", folder / "model", *DIGITS, *FEW_LABELS, "--epochs", 1]
        + ["--batch-size", 16, "--output", folder / "classifier"],
        ["convert", folder / "model", folder / "transformers", "--to", "huggingface"],
    ]
    for command in commands:
        status, _, errors = igpt(*command)
        assert status == 0, errors
    Image.new("RGB", (20, 20)).save(folder / "image.png")
    return folder


def commands(folder, output):
    """Commands that write to `output`."""
    model, classifier, image = (folder / name for name in ("model", "classifier", "image.png"))
    to_output = ["--output", output]
    return {
        "palette": ["tokenizer", "fit", "palette", *DIGITS, *SIZES[:4]]
        + ["--output", output.with_suffix(".npy")],
        "vqvae": ["tokenizer", "fit", "vqvae", *DIGITS, *SIZES[:2], "--codebook-size", 16]
        + ["--hidden-dim", 4, "--steps", 4, "--checkpoint-every", 2, *to_output],
        "draft": ["draft", model, *DIGITS, "--output", output.with_suffix(".npz")],
        "convert": ["convert", folder / "transformers", output],
        "convert to Transformers": ["convert", model, output, "--to", "huggingface"],
        "complete": ["complete", image, "--model", model, "--keep-rows", 4, *to_output],
        "sample": ["sample", "--model", model, "--num-samples", 2, *to_output],
        "report": ["report", model, classifier, *to_output],
        "evaluate": ["evaluate", classifier, *DIGITS, *to_output],
        "probe": ["probe", model, *DIGITS, *FEW_LABELS, *to_output],
        "pretrain": ["pretrain", *DIGITS, *SIZES, *TRAINING, *to_output],
        "pretrain with a cache": ["pretrain", *DIGITS, *SIZES, "--steps", 4]
        + ["--cache", output.parent / "cache", *to_output],
        "finetune": ["finetune", model, *DIGITS, *FEW_LABELS, "--epochs", 2]
        + ["--batch-size", 16, "--checkpoint-every", 3, *to_output],
        "export": ["export", model, classifier, *to_output],
    }


TRAINING_COMMANDS = ("pretrain", "finetune", "tokenizer", "fit", "vqvae")
NAMES = list(commands(pathlib.Path("folder"), pathlib.Path("output")))
# Pages, each of which is too few for some of the commands; then enough for any.
PAGES = [0, 1, 3, 8, 20, 50, 120, 25_600]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(igpt, disk, trained, capfd, name):
    refusals = 0
    for pages in PAGES:
        disk.mount(pages)
        command = commands(trained, disk.output)[name]
        capfd.readouterr()
        status, _, errors = igpt(*command)
        # What libraries print by themselves does not pass Python's stderr.
        errors += capfd.readouterr().err
        if status == 0:
            break
        refusals += 1
        assert status == 2
        assert errors.startswith("igpt: error: ") and errors.count("\n") == 1, errors
        assert "No space left on device" in errors
        words = [word for word in command if word in TRAINING_COMMANDS]
        if words and disk.output.exists():
            disk.grow()
            status, _, errors = igpt(*words, "--resume", disk.output)
            assert status == 0, errors
        else:
            assert not disk.files()
    assert status == 0 and refusals


@pytest.mark.slow
@pytest.mark.parametrize("name", ["palette", "convert", "complete", "report", "evaluate", "probe"])
def test_what_was_there_stays_on_a_full_disk(igpt, disk, trained, name):
    disk.mount(25_600)
    command = [*commands(trained, disk.output)[name], "--overwrite"]
    assert igpt(*command)[0] == 0
    before = disk.files()
    (disk.folder / "full").write_bytes(b"")
    with pytest.raises(OSError), open(disk.folder / "full", "ab") as full:
        while True:
            full.write(bytes(PAGE))
            full.flush()
    status, _, errors = igpt(*command)
    assert (status, "No space left on device" in errors) == (2, True)
    assert disk.files() == before
