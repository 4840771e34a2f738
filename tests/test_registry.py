import sys

import pytest

from igpt_keras import registry
from igpt_keras.errors import InputError
from igpt_keras.registry import Registry


def test_what_is_registered_is_found_by_name():
    shapes = Registry("shape")
    square = shapes.register("square")(object())
    circle = shapes.register("circle")(object())
    assert shapes.get("square") is square
    assert shapes.get("circle") is circle
    assert shapes.names() == ["square", "circle"]


def test_an_unknown_name_is_answered_with_the_known_ones():
    shapes = Registry("shape")
    shapes.register("square")(object())
    shapes.register("circle")(object())
    with pytest.raises(InputError, match="shape must be one of circle, square, got 'oval'"):
        shapes.get("oval")


def test_a_name_is_taken_once():
    shapes = Registry("shape")
    shapes.register("square")(object())
    with pytest.raises(ValueError, match="'square' is registered already"):
        shapes.register("square")(object())


def test_an_installed_package_adds_to_a_registry(tmp_path, monkeypatch):
    (tmp_path / "shapes_plugin.py").write_text(
        "from tests.test_registry import PLUGGED\nPLUGGED.register('oval')('an oval')\n"
    )
    info = tmp_path / "shapes_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shapes-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[igpt_keras.plugins]\nshapes = shapes_plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shapes_plugin", raising=False)
    registry.load_plugins.cache_clear()
    assert PLUGGED.get("oval") == "an oval"


PLUGGED = Registry("shape")
