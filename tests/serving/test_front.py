"""What `import serving` gives, and what it needs."""

import subprocess
import sys

import pytest

import serving
from igpt_keras.errors import InputError


def run(code):
    """What the program prints, in a process of its own."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", serving.__all__)
def test_names_are_found_where_they_live(name):
    first, second = getattr(serving, name), getattr(serving, name)
    assert first is second
    assert callable(first)
    assert first.__module__.startswith("serving.")


def test_there_is_no_other_name():
    with pytest.raises(AttributeError, match="'serving' has no attribute 'serve'"):
        _ = serving.serve


@pytest.mark.parametrize("missing", ["tensorflow_serving", "grpc_health", "grpc"])
def test_without_its_extra_the_package_says_what_to_install(missing, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] in ("serving", missing)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError) as caught:
        import serving.server  # noqa: F401
    assert str(caught.value) == f"{missing} is not installed: pip install 'igpt-keras[serve]'"
