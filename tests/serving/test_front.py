"""What `import serving` gives, and what it needs."""

import subprocess
import sys

import pytest

import serving
from igpt_keras.errors import InputError

LIGHT = """
import sys
{imports}
heavy = {{"tensorflow", "keras", "jax", "torch", "sklearn", "igpt_keras.models",
         "igpt_keras.network", "igpt_keras.data.data_set", "igpt_keras.data.stream",
         "igpt_keras.data.tokenization", "serving.server", "serving.exporting", "httpx2"}}
loaded = heavy & set(sys.modules)
assert not loaded, loaded
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import serving.client",
        "from igpt_keras.cli import client",
        "from serving import AsyncClient, Client, ServingError\n"
        "from igpt_keras import samplers\n"
        "Client('localhost:1').close(), samplers.Categorical(0.9)",
    ],
)
def test_the_client_loads_no_model_code(imports):
    command = [sys.executable, "-c", LIGHT.format(imports=imports)]
    subprocess.run(command, check=True, timeout=120)


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
    command = "python -m pip install -e '.[serve]' in the clone of igpt-keras installs it"
    assert str(caught.value) == f"{missing} is not installed: {command}"
