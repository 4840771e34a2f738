"""A run that is stopped, and a server that stops in the middle."""

import numpy as np
import pytest

from serving import Server

pytestmark = pytest.mark.slow
GRAY = (142, 142, 147)
START = "#image=flower&model=slow&rows=0&num_completions=16&seed=2"
# Presses Stop as soon as there is a row, and tells what had the focus.
STOP = """const timer = setInterval(() => {
  if (!(document.getElementById("progress").value > 0)) return;
  clearInterval(timer);
  window.focused = document.activeElement.id;
  document.getElementById("stop").click();
}, 1)"""


def rows_drawn(page):
    """Of the first completion."""
    return 32 - (page.completions()[0] == GRAY).all(axis=(1, 2)).sum()


def test_stop_ends_the_run_here_and_on_the_server(page, site):
    page.open(site.rest_address, START)
    page.run(STOP)
    page.click("#complete")
    page.wait("return document.getElementById('status').textContent === 'Stopped.'")
    assert page.run("return window.focused") == "stop"
    page.wait("return document.activeElement.id === 'complete'")
    assert 0 < rows_drawn(page) < 32
    while site.in_flight:
        pass
    partial, count = page.completions(), rows_drawn(page)
    page.complete()
    assert rows_drawn(page) == 32
    np.testing.assert_array_equal(page.completions()[:, :count], partial[:, :count])


def test_a_server_that_stops_in_the_middle_is_said_and_the_page_recovers(page, config_file):
    with Server(model_config_file=config_file, rest_port=0, page=True) as server:
        page.open(server.rest_address, START)
        page.click("#complete")
        page.wait("return Number(document.getElementById('progress').value) > 0")
        port = int(server.rest_address.rpartition(":")[2])
        server.stop(grace=0)
        page.wait("return document.getElementById('status').textContent")
        assert page.text("#status").startswith("The server stopped in the middle.")
        page.wait("return !document.getElementById('offline').hidden")
        assert "This page goes on when it is back." in page.text("#offline")
        assert not page.element("#complete").is_enabled()
        before = page.completions()
        assert 0 < rows_drawn(page) < 32
        settings = page.settings()
    page.element("#crop").send_keys("+")
    page.fill("seed", 5)
    with Server(model_config_file=config_file, rest_port=port, page=True):
        page.wait("return document.getElementById('offline').hidden")
        page.ready()
        assert page.text("#status") == "The server is back."
        np.testing.assert_array_equal(page.completions(), before)
        assert page.settings()["seed"] == "5" and "crop" in page.settings()
        assert page.settings()["rows"] == settings["rows"]
        page.complete()
        assert rows_drawn(page) == 32


def test_a_page_that_is_opened_before_its_models_waits_for_them(page, site):
    page.open(site.rest_address)
    page.command("Network.enable")
    page.command("Network.setBlockedURLs", urls=["*/v1/models"])
    try:
        page.driver.refresh()
        page.wait("return !document.getElementById('offline').hidden")
        assert not page.element("#complete").is_enabled()
    finally:
        page.command("Network.setBlockedURLs", urls=[])
    page.ready()
    assert not page.is_visible("#offline")
