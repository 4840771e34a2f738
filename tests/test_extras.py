import sys

import pytest

from igpt_keras.errors import InputError
from igpt_keras.extras import require


def test_an_installed_module_is_returned():
    assert require("json.decoder", "serve") is sys.modules["json.decoder"]


@pytest.mark.parametrize("module", ["no_such_module", "no_such_module.inner"])
def test_a_missing_module_is_answered_with_the_command_that_installs_it(module):
    with pytest.raises(InputError) as caught:
        require(module, "serve")
    assert str(caught.value) == (
        "no_such_module is not installed: python -m pip install -e '.[serve]' in the clone of "
        "igpt-keras installs it"
    )


def test_a_module_that_lacks_another_says_which(tmp_path, monkeypatch):
    (tmp_path / "lacking.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        require("lacking", "serve")
