"""The page's menu of classes and its guidance, for models that have classes."""

import numpy as np
import pytest
from PIL import Image

from serving import Server
from tests.serving.page.browsing import require_browser
from tests.serving.page.conftest import MODEL

require_browser()

from axe_core_python.selenium import Axe  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

pytestmark = pytest.mark.slow
START = "#image=temple&model=classes&num_completions=2"


@pytest.fixture(scope="module")
def site(exported, exported_conditional, tmp_path_factory):
    """A server of a model without classes and one with."""
    path = tmp_path_factory.mktemp("served") / "models.config"
    paths = {"small": exported, "classes": exported_conditional}
    models = " ".join(MODEL.format(name=name, path=path) for name, path in paths.items())
    path.write_text(f"model_config_list {{ {models} }}")
    with Server(model_config_file=path, rest_port=0, page=True) as server:
        yield server


def choose(page, name):
    Select(page.element("#labels")).select_by_visible_text(name)


def test_a_class_is_drawn_and_what_was_chosen_is_remembered(page, site, conditional, tmp_path):
    image = np.random.default_rng(5).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    page.open(site.rest_address, START)
    page.upload(tmp_path / "image.png")
    menu = Select(page.element("#labels"))
    assert [option.text for option in menu.options] == ["Any", "cat", "dog", "écureuil"]
    assert not page.element("#guidance_scale").is_enabled()
    assert "class" not in page.settings() and "guidance_scale" not in page.settings()
    page.sent()
    page.complete()
    (body,) = page.sent()
    assert "labels" not in body and "guidance_scale" not in body
    choose(page, "écureuil")
    page.slide("guidance_scale", 2.5)
    assert page.text("#guidance_scale-text") == "2.5"
    page.complete()
    (body,) = page.sent()
    assert (body["labels"], body["guidance_scale"]) == (2, 2.5)
    settings = {"keep_rows": body["keep_rows"], "seed": [body["seed"]], "num_completions": 2}
    drawn = conditional.generate(image[None], labels=2, guidance_scale=2.5, **settings)
    np.testing.assert_array_equal(page.completions(), drawn.images[0])
    assert "écureuil · guidance 2.5 · " in page.text("#results-about")
    remembered = page.settings()
    assert (remembered["class"], remembered["guidance_scale"]) == ("écureuil", "2.5")
    # The class of the image, by Bayes' rule.
    page.wait("return document.querySelectorAll('#bars li').length")
    best = conditional.class_names[conditional.class_log_likelihood(image[None]).argmax()]
    assert page.text("#bars li .label") == best
    # A reload brings the choice back.
    fragment = page.run("return location.hash").replace("image=own", "image=temple")
    page.open(site.rest_address, fragment)
    assert Select(page.element("#labels")).first_selected_option.text == "écureuil"
    assert page.element("#guidance_scale").get_property("value") == "2.5"
    # Another model has no classes; the first one keeps its own.
    Select(page.element("#model")).select_by_visible_text("small · 4 × 4")
    page.wait("return location.hash.includes('model=small')")
    assert not page.is_visible("#condition")
    assert "class" not in page.settings()
    Select(page.element("#model")).select_by_visible_text("classes · 4 × 4")
    page.wait("return location.hash.includes('model=classes')")
    assert page.settings()["class"] == "écureuil"
    assert page.errors() == []


def test_other_classes_and_numbers_in_an_address_are_as_none(page, site):
    page.open(site.rest_address, f"{START}&class=bird&guidance_scale=99")
    assert Select(page.element("#labels")).first_selected_option.text == "Any"
    page.open(site.rest_address, f"{START}&class=dog&guidance_scale=hot")
    settings = page.settings()
    assert (settings["class"], settings["guidance_scale"]) == ("dog", "1")
    page.open(site.rest_address, "#image=temple&model=small&class=dog&guidance_scale=2")
    assert not page.is_visible("#condition")
    assert "class" not in page.settings()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 360])
def test_the_controls_are_for_everybody(page, site, scheme, width):
    page.open(site.rest_address, f"{START}&class=dog", width=width, scheme=scheme)
    assert Axe().run(page.driver)["violations"] == []
    assert page.run("return document.documentElement.scrollWidth") <= width
    page.run("document.getElementById('model').focus()")
    ActionChains(page.driver).send_keys(Keys.TAB).perform()
    assert page.run("return document.activeElement.id") == "labels"
    ActionChains(page.driver).send_keys(Keys.ARROW_DOWN, Keys.TAB, Keys.ARROW_RIGHT).perform()
    settings = page.settings()
    assert (settings["class"], settings["guidance_scale"]) == ("écureuil", "1.25")
