"""The page for everybody: axe-core's rules, the keyboard alone, narrow windows, touch."""

import numpy as np
import pytest

from tests.serving.page.browsing import require_browser

require_browser()

from axe_core_python.selenium import Axe  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = pytest.mark.slow
START = "#image=temple&model=small&num_completions=2"
# Tabs until something is reached; the page has fewer places.
MOST_TABS = 40


def violations(page):
    found = Axe().run(page.driver)["violations"]
    return {rule["id"]: [node["html"] for node in rule["nodes"]] for rule in found}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 360])
def test_axe_finds_nothing_in_any_state(page, site, scheme, width):
    page.open(site.rest_address, START, width=width, scheme=scheme)
    assert violations(page) == {}
    page.run("document.querySelector('[name=mode][value=brush]').click()")
    page.run("document.getElementById('seed').value = ''")
    page.run("document.getElementById('complete').click()")
    assert page.text("#seed-error")
    assert violations(page) == {}
    page.run("document.getElementById('new-seed').click()")
    page.run("document.getElementById('complete').click()")
    page.completed()
    page.run("document.getElementById('entropy').click()")
    page.run("document.getElementById('new-seed').click()")
    assert page.is_visible("#keep-seed")
    assert violations(page) == {}
    page.run("document.querySelector('button.pictures').click()")
    assert violations(page) == {}
    page.open(site.rest_address, "#model=bert", width=width, scheme=scheme)
    assert violations(page) == {}


def press(page, *keys):
    ActionChains(page.driver).send_keys(*keys).perform()


def tab_to(page, identity):
    """Presses Tab until an element has the focus, which must be visible."""
    for _ in range(MOST_TABS):
        if page.run("return document.activeElement.id") == identity:
            break
        press(page, Keys.TAB)
    assert page.run("return document.activeElement.id") == identity


def test_everything_is_reached_with_the_keyboard_alone(page, site):
    page.open(site.rest_address, START)
    tab_to(page, "crop")
    press(page, "+", Keys.ARROW_DOWN)
    assert "crop" in page.settings()
    tab_to(page, "file")
    tab_to(page, "camera")
    press(page, Keys.TAB, Keys.TAB, Keys.ENTER)
    page.wait("return location.hash.includes('image=flower')")
    tab_to(page, "view")
    press(page, Keys.ARROW_UP)
    assert page.settings()["rows"] == "1"
    press(page, Keys.TAB, Keys.ARROW_RIGHT)  # From "Rows" to "Brush".
    assert "mask" in page.settings()
    ActionChains(page.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert page.run("return document.activeElement.id") == "view"
    press(page, Keys.ARROW_RIGHT, " ")
    assert page.text("#view-live") == "Row 1, column 2: erased"
    for name in ("keep-all", "invert", "model", "temperature", "seed", "new-seed"):
        tab_to(page, name)
    press(page, Keys.ENTER)
    page.ready()
    tab_to(page, "complete")
    press(page, Keys.ENTER)
    page.completed()
    assert page.run("return document.activeElement.id") == "complete"
    assert page.text("#live") == "2 completions are ready."
    press(page, Keys.TAB)
    label = page.run("return document.activeElement.getAttribute('aria-label')")
    assert label.startswith("Enlarge completion 1, log-likelihood ")
    press(page, Keys.ENTER)
    press(page, Keys.ARROW_RIGHT)
    assert page.text("#enlarged-title") == "Completion 2 of 2"
    press(page, Keys.ESCAPE)
    assert page.run("return document.activeElement.getAttribute('aria-label')") == label
    for name in ("again", "sheet", "entropy"):
        tab_to(page, name)
    press(page, " ")
    assert page.is_visible("#scale")


@pytest.mark.parametrize("width", [320, 360, 768, 1080, 1920])
def test_nothing_is_cut_off_at_any_width(page, site, width):
    page.open(site.rest_address, START, width=width)
    page.run("document.querySelector('[name=mode][value=brush]').click()")
    page.run("document.getElementById('complete').click()")
    page.completed()
    assert page.run("return document.documentElement.scrollWidth") <= width
    # Nothing but what is for screen readers only lies outside of its card.
    outside = page.run(
        """return [...document.querySelectorAll(".card *:not(.hidden, option)")]
          .filter((element) => element.getClientRects().length)
          .filter((element) => {
            const card = element.closest(".card").getBoundingClientRect();
            const {left, right} = element.getBoundingClientRect();
            return left < card.left - 1 || right > card.right + 1;
          }).map((element) => element.outerHTML)"""
    )
    assert outside == []


def test_fingers_move_and_zoom(page, site):
    page.open(site.rest_address, START, width=390, height=844, touch=True)
    left, top, width = page.run(
        """const {left, top, width} = document.getElementById("crop").getBoundingClientRect();
        return [left, top, width]"""
    )

    def touch(kind, *places):
        points = [
            {"x": left + x * width, "y": top + y * width, "id": number}
            for number, (x, y) in enumerate(places)
        ]
        page.command("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    touch("touchStart", (0.5, 0.5))
    for x in np.linspace(0.5, 0.75, 6):
        touch("touchMove", (x, 0.5))
    touch("touchEnd")
    # A quarter of 320 pixels, less what the browser takes to tell a drag from a tap.
    x, y, side = map(int, page.settings()["crop"].split(","))
    assert (y, side) == (0, 320) and 0 <= x <= 20
    touch("touchStart", (0.4, 0.5), (0.6, 0.5))
    for distance in np.linspace(0.1, 0.4, 7):
        touch("touchMove", (0.5 - distance, 0.5), (0.5 + distance, 0.5))
    touch("touchEnd")
    assert int(page.settings()["crop"].split(",")[2]) < 120
