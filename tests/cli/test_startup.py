"""What a process of `igpt` imports and writes before a command does its work."""

import os
import subprocess
import sys

import pytest

WITHOUT_LIBRARIES = """
import sys
from igpt_keras.cli import main
sys.argv = ["igpt", *sys.argv[1:]]
try:
    main()
finally:
    print("imported:", *sorted({"keras", "tensorflow", "torch", "jax"} & set(sys.modules)))
"""
CHATTER = ("I0000", "E0000", "WARNING:", "oneDNN", "cuda", "rebuild TensorFlow")


def run(*command, **environment):
    inherited = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env={**inherited, **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["pretrain", "--help"], 0),
        (["complete", "--help"], 0),
        (["client", "--help"], 0),
        (["client", "complete", "--help"], 0),
        (["tune", "pretrain", "--help"], 0),
        (["pretrian"], 2),
        (["finetune", "model", "--epochs", "none"], 2),
    ],
)
def test_help_and_usage_errors_import_no_framework(arguments, status):
    result = run("-c", WITHOUT_LIBRARIES, *arguments)
    assert result.returncode == status, result.stderr
    assert result.stdout.splitlines()[-1] == "imported:"


def test_shell_completion_imports_no_framework():
    result = run(
        "-c",
        WITHOUT_LIBRARIES,
        _IGPT_COMPLETE="bash_complete",
        COMP_WORDS="igpt complete --temp",
        COMP_CWORD="2",
    )
    assert "--temperature" in result.stdout
    assert result.stdout.splitlines()[-1] == "imported:"


def test_the_nearest_command_is_suggested(igpt):
    assert igpt("pretrian") == (
        2,
        "",
        "igpt: error: No such command 'pretrian'; did you mean pretrain? (see igpt --help)\n",
    )
    assert "did you mean status?" in igpt("client", "stats")[2]


def test_the_package_runs_as_a_module():
    result = run("-m", "igpt_keras", "--help")
    assert result.stdout.startswith("Usage: igpt [OPTIONS] COMMAND")


@pytest.mark.slow
def test_messages_of_tensorflow_are_shown_on_request_only():
    command = ("-m", "igpt_keras", "sample", "--model", "missing", "--output", "out")
    quiet = run(*command)
    assert (quiet.returncode, quiet.stderr.count("\n")) == (2, 1), quiet.stderr
    verbose = run("-m", "igpt_keras", "--verbose", *command[2:])
    assert any(word in verbose.stderr for word in CHATTER)


def test_other_lines_written_while_tensorflow_loads_are_passed_on(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os, warnings\n"
        "os.write(2, b'I0000 00:00:1795780693.879077   19046 port.cc:153] oneDNN is on\\n')\n"
        "os.write(2, b'F0000 00:00:1795780693.879077   19046 cpu.cc:1] no AVX\\n')\n"
        "warnings.warn('ours')\n"
        "os.abort()\n"
    )
    result = run(
        "-c",
        "from igpt_keras.cli.quiet import load_tensorflow; load_tensorflow()",
        PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
    )
    assert result.returncode < 0
    assert "no AVX" in result.stderr and "UserWarning: ours" in result.stderr
    assert "oneDNN" not in result.stderr
